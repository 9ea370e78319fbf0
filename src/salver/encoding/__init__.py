"""Encodings that several dialects share: JSON values, raw tensors, protobuf, varints. Pure."""
