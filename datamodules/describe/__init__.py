"""What `belvedere describe` checks and shows, a module per task."""
