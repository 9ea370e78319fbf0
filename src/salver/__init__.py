"""Salver: one process and one port that serve models of every framework.

Only the version is here at import; nothing is loaded, read or started.
"""

__version__ = "0.1.0"
