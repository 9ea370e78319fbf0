"""Client of a Salver server, or of another server with the Open Inference Protocol.

:class:`Client` is asynchronous, and :class:`SyncClient` is for programs without an event loop. They raise
:class:`~salver.words.errors.SalverError`, including :class:`Unreachable`.
"""

from salver.client.blocking import SyncClient
from salver.client.client import Client
from salver.client.http import Unreachable
from salver.words.releases import Outcome, Receipt

__all__ = ["Client", "Outcome", "Receipt", "SyncClient", "Unreachable"]
