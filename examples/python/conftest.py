"""Gives the tests here a Kafka and a worker that makes no videos."""

pytest_plugins = ["vortex.testing"]
