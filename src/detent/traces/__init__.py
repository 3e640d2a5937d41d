"""Traces: the spool between gateway and lake, its ingestion, OTLP, and the questions people ask of telemetry."""
