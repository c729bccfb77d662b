"""Readers of files: images, masks, tables, and the cache."""
