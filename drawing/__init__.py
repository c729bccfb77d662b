"""Draws images, charts and HTML pages."""
