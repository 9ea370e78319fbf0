"""Eviction policies: which entries of a bounded cache leave when another one comes.

Pure: no clock, no values, no I/O. Each policy is a small module with its source.
"""
