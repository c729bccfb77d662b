"""Writers of predictions: their base, what all output formats share, and a room for each kind of result."""
