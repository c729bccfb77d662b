"""Votes, tags and splits of aesthetics datasets."""
