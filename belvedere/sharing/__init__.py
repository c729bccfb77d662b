"""Packages of trained tasks: making, describing, opening, uploading and downloading them."""
