"""Turns what is typed into a command: arguments, options and settings, help, and the LightningCLI that runs it."""
