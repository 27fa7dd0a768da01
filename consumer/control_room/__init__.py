"""The control room: one page that shows all workers, from Kafka alone."""
