"""Releases: new versions that receive traffic in stages and are judged by the results."""
