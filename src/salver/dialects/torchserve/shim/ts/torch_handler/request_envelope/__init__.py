"""Envelopes, which convert between bodies of a protocol and a handler's data."""
