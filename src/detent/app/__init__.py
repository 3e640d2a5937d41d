"""Composition: the only place that names adapters. Builds the platform, runs and supervises its processes."""
