"""Runs as assets of an orchestration engine; the entry point is `pipelines.definitions`."""
