"""What has parameters."""
