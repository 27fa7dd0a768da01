"""The planner and the estimates of the worker, on simulated slots."""
