"""A load: one producer, concurrent writers, retries, resume, and the report."""
