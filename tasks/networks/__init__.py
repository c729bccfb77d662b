"""Networks and their building blocks: everything that has parameters."""
