"""One DataModule a task: everything that touches a file."""
