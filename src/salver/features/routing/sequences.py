"""Instances of active sequences: each request of a sequence goes where the sequence began. Pure."""

from collections.abc import Iterable
from typing import Final

from salver.features.routing.instances import Instance
from salver.kernel.engine.sequence_tensors import flag, id_of
from salver.words.errors import InvalidInput, NotReady
from salver.words.messages import InferRequest

#: Most sequences that are known; beyond, the one that was asked for longest ago is forgotten.
MOST: Final = 65_536


class SequenceHomes:
    """URL of the instance of each active sequence of a model, whose versions share it.

    Args:
        model: Name for error texts.

    >>> homes = SequenceHomes("m")
    >>> a, b = Instance("http://a"), Instance("http://b")
    >>> homes.keep(InferRequest("m", (), parameters={"sequence_id": 7, "sequence_start": True}), a)
    >>> homes.find(InferRequest("m", (), parameters={"sequence_id": 7}), [b, a]).url
    'http://a'
    """

    def __init__(self, model: str, most: int = MOST) -> None:
        self._model = model
        self._most = most
        self._urls: dict[int | str, str] = {}

    def __repr__(self) -> str:
        return f"<SequenceHomes of {self._model}, {len(self._urls)} sequences>"

    def knows(self, request: InferRequest) -> bool:
        """See :class:`~salver.kernel.serving.capabilities.Sequences`."""
        return id_of(request) in self._urls and not flag(request.parameters, "sequence_start")

    def find(self, request: InferRequest, instances: Iterable[Instance]) -> Instance | None:
        """Return the instance where the request's sequence is; None = it begins now.

        Args:
            instances: Those of the model.

        Raises:
            InvalidInput: there is no such sequence, and the request does not start one.
            NotReady: its instance is no longer one of the model's.
        """
        id = id_of(request)
        if flag(request.parameters, "sequence_start"):
            return None
        url = self._urls.get(id)
        if url is None:
            raise InvalidInput(
                f"inference request for sequence {id} to model '{self._model}' must specify the START flag "
                "on the first request of the sequence"
            )
        for each in instances:
            if each.url == url:
                return each
        del self._urls[id]
        raise NotReady(
            f"sequence {id} of model '{self._model}' was at {url}, which is gone with its state",
            field="parameters.sequence_id",
            fix="Start the sequence again.",
        )

    def keep(self, request: InferRequest, instance: Instance) -> None:
        """Record the instance to which the request of a sequence is sent."""
        id = id_of(request)
        self._urls.pop(id, None)
        self._urls[id] = instance.url
        if len(self._urls) > self._most:
            del self._urls[next(iter(self._urls))]

    def answered(self, request: InferRequest) -> None:
        """Forget a sequence whose last request was answered; one that was refused may be sent again."""
        if flag(request.parameters, "sequence_end"):
            self._urls.pop(id_of(request), None)
