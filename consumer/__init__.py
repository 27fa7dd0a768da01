"""Everything around one slot: Kafka in and out, the queue, artifacts, telemetry, command line."""
