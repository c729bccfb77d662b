"""What draws, writes, stops or measures while a trainer runs."""
