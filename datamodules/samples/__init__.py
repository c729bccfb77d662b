"""Synthetic sample datasets, a module per task."""
