"""Writers of what `predict` found: one that puts images together, and formats."""
