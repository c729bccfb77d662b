"""Metrics that accumulate over batches and processes."""
