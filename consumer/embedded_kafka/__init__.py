"""A real Apache Kafka on loopback, for demo, tests and `vortex kafka`."""
