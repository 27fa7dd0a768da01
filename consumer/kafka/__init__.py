"""Kafka as this worker uses it, and a broker of its own for demo and tests."""
