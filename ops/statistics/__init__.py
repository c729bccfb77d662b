"""Statistics: closed-form linear models, principal components, calibration, power laws, and choosing images."""
