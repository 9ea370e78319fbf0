"""Backends: one module per framework that turns an artefact into a runnable model.

The protocol is :mod:`salver.backends.protocol`; ``salver.testing.backends`` checks it. Importing any module
here imports no framework.
"""

from salver.backends.protocol import Backend, LoadOptions, RunnableModel, Traits

__all__ = ["Backend", "LoadOptions", "RunnableModel", "Traits"]
