"""Checks of parts of a model configuration, whatever file it was read from. Pure."""
