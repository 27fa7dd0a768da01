"""The miniature: portraits that a program draws, and models trained on them from zero."""
