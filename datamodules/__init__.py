"""One LightningDataModule per task, and everything that reads files."""
