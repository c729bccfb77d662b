"""Comparisons of many runs: planned in a file, executed with resume after interruptions, reported in tables."""
