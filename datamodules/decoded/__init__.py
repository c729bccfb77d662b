"""Datasets decoded into the cache, and samples made of them."""
