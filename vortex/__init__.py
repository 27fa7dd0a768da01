"""Making one slot: models, pipeline and the scheduler that keeps its deadline."""
