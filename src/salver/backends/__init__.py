"""How does an artefact become a model that runs? One module a framework.

What a backend must do is said in :mod:`salver.backends.protocol`; ``salver.testing.backends``
checks it. Importing any module here imports no framework.
"""

from salver.backends.protocol import Backend, LoadOptions, RunnableModel, Traits

__all__ = ["Backend", "LoadOptions", "RunnableModel", "Traits"]
