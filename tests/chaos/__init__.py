"""Exactly one outcome for every tick, whatever dies: proved by killing things."""
