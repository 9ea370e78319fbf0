"""NVIDIA Triton: its extensions, configurations, metrics and command line."""
