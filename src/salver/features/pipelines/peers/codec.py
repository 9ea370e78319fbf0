"""Codec of a request in a peer's form, which becomes that of a task."""

from collections.abc import Callable

from salver.encoding.bodies import HttpBody, HttpReply
from salver.features.pipelines.forms import PipelineJson, PipelineRequest
from salver.words.errors import SalverError
from salver.words.messages import Signature

Read = Callable[[HttpBody, Signature], PipelineRequest]
Fault = Callable[[SalverError], HttpReply]


class PeerCodec(PipelineJson):
    """Codec of one path.

    Args:
        read: Returns the request in a body for a model of the path's tasks.
        fault: Writes an error in the peer's form.
    """

    def __init__(self, read: Read, fault: Fault) -> None:
        self._read = read
        self._fault = fault

    def decode(self, http: HttpBody, signature: Signature) -> PipelineRequest:
        """Return the request. Raises InvalidInput, TooLarge or Unsupported."""
        return self._read(http, signature)

    def fault(self, error: SalverError) -> HttpReply:
        """Return the peer's form of an error. Never raises."""
        return self._fault(error)
