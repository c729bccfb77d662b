"""Comparisons of many runs: planned in a file, run to their end whatever interrupts them, and put into tables."""
