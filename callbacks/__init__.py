"""Lightning callbacks: checkpoints, resuming, thresholds, panels, and writers of predictions."""
