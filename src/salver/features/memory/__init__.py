"""Memory: one budget for all models of a server.

``policy`` decides from a snapshot what is loaded and what makes room; ``residence`` carries it out, for the
lifecycle that asks it which versions are absent. ``docs/adr/0017-memory-and-caches.md`` has the reasons.
"""
