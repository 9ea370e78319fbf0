"""Python environments of models: made once, kept by digest, and used by host processes.

``recipe`` says what is made of a file, ``installing`` makes it, ``cache`` keeps it, and ``interpreter``
checks a Python and lets it import Salver. ``service`` puts them together.
"""
