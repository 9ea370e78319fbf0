"""How does an outsider show that a backend, a store, a codec or a cache keeps its promises?

Conformance suites to subclass (``backends``, ``stores``, ``codecs``, ``caches``), and ``process``, which
starts a real server for a test. Needs pytest.
"""
