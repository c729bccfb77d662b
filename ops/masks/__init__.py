"""Masks as pixels, regions, run lengths and polygons."""
