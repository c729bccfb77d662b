"""Measures networks on images that they were not trained on: cross-validations, learning curves, doubtful labels."""
