"""How do TorchServe's archives and handlers run unchanged?

``backend.py`` recognises and loads them; ``opening.py`` finds the handler and tells it what TorchServe
would; ``model.py`` asks it and takes its answers (``answering.py`` is its one call, ``requests.py`` and
``replies.py`` what goes in and comes out), ``asynchronous.py`` if it answers when it likes; ``weights.py``
lets its workers share theirs; ``shim`` is what it imports as ``ts``. A handler lives in a host process of its
own, the only one in which that name can be imported.
"""

from salver.dialects.torchserve.backend.backend import TorchServeBackend

__all__ = ["TorchServeBackend"]
