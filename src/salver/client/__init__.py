"""Client of a Salver server, or of another that speaks the Open Inference Protocol.

:class:`Client` is asynchronous, and :class:`SyncClient` the same for programs without an event loop. What
they raise is a :class:`~salver.words.errors.SalverError` of :mod:`salver.words.errors`;
:class:`Unreachable` is one, too.
"""

from salver.client.blocking import SyncClient
from salver.client.client import Client
from salver.client.http import Unreachable
from salver.words.releases import Outcome, Receipt

__all__ = ["Client", "Outcome", "Receipt", "SyncClient", "Unreachable"]
