"""Backend that runs TorchServe's archives and handlers unchanged.

``backend.py`` recognises and loads them; ``opening.py`` finds the handler and gives it its context;
``model.py`` runs it (``answering.py`` is one call, ``replies.py`` its replies), and ``asynchronous.py`` runs
coroutines; ``weights.py`` shares weights among workers; ``shim`` is the package ``ts`` that handlers import.
A handler runs in a host process of its own, the only one where that package can be imported.
"""

from salver.dialects.torchserve.backend.backend import TorchServeBackend

__all__ = ["TorchServeBackend"]
