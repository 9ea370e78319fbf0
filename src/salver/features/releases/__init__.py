"""Releases: new versions that meet traffic in steps and are judged by it."""
