"""One LightningModule a task, its networks, losses and metrics, and the command line."""
