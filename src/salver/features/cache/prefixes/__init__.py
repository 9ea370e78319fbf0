"""Prefix cache: states of step-wise models after the beginnings of prompts, in blocks.

``tree`` and ``reuse_ages`` decide what is kept (pure); ``remembering`` is the decorator of a step model.
"""
