"""Capabilities beside the kernel, a package each."""
