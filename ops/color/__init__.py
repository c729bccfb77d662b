"""Colors: spaces, classes of color, metrics, and coloring an image at its own size."""
