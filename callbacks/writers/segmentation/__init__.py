"""Whole images of segmentation: the stitching of windows, its writers, and their output formats."""
