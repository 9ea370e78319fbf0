"""Utilities of handlers."""
