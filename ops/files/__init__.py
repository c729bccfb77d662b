"""Files that may come from anywhere: images, videos, tensors, YAML, and their names and locks."""
