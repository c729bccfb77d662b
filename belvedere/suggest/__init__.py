"""The command `suggest`: finds the images whose labels would help a network most."""

from belvedere.suggest.command import suggest

__all__ = ["suggest"]
