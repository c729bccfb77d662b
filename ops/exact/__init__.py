"""Filters, edges and pyramids equal to the libraries that the papers used, on any device, and their kornia forms."""
