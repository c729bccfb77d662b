"""Builds the documentation site; used by `make docs` only, and not installed."""
