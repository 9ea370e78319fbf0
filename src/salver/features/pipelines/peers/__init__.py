"""Requests in the forms of other servers of such models, at their paths."""
