"""Slots that one worker's plan leaves out go to a worker that has time for them, at most once.

The tick is written to the topic of handovers in the transaction that commits its offset: that is
what becomes of it at its first place. Its receiver owns it like any tick of an input partition.
Whoever is asked, and whether anybody is, rests on announcements, which are hints.
"""
