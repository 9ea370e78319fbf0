"""Utilities of handlers: timing, pieces of answers, micro-batches."""
