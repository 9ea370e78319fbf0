"""Protocols of other servers, a package each. No dialect imports another, but triton builds on oip."""
