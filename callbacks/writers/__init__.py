"""Writers of predictions: one skeleton, one place that stitches images together, and output formats."""
