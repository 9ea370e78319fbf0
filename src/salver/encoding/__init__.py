"""Encodings that several dialects share: JSON text and values, large arrays, protobuf, YAML.

Pure: no socket, clock or loaded model, and no protocol. ``bodies`` holds the records between transports and
codecs.
"""
