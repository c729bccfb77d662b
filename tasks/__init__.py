"""One LightningModule per task, with its networks, losses and metrics."""
