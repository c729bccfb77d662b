"""Writers of predictions: their base, the stitching of images, and the output formats."""
