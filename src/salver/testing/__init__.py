"""How does an outsider show that a backend, a store or a codec keeps its promises?

Conformance suites to subclass (``backends``, ``stores``, ``codecs``), and ``process``, which starts a
real server for a test. Needs pytest.
"""
