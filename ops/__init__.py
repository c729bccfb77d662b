"""Pure functions on arrays and tensors: no Lightning, no files."""
