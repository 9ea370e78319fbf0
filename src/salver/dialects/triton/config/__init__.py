"""Triton's model configuration (config.pbtxt), translated into Salver's."""
