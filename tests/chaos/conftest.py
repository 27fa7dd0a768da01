"""The one-node Kafka of the integration tests."""

from tests.integration.conftest import kafka, make_lane, make_topic

__all__ = ["kafka", "make_lane", "make_topic"]
