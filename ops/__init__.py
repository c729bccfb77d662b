"""Image operations as pure functions on arrays and tensors; no Lightning."""
