"""Colored images and films."""
