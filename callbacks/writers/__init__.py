"""Writers of predictions: their base, what all output formats share, and packages for masks and for colors."""
