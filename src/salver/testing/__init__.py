"""Conformance suites for backends, stores, codecs and caches, and real servers for tests.

Suites to subclass (``backends``, ``stores``, ``codecs``, ``caches``), and ``process``, which starts a server.
Needs pytest.
"""
