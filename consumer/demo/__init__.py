"""The demo: a cast of ticks, what becomes of them, and how that is shown."""
