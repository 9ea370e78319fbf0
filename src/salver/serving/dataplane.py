"""How is one request answered, whatever its protocol?

The one door: decode, lease a loaded version, queue and run, encode, release, announce. It
knows neither HTTP nor gRPC (a codec does) and no queue (the engine does).
"""

import logging
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from salver.errors import Code, Internal, InvalidInput, SalverError
from salver.events import Served
from salver.messages import Call, InferRequest, ModelId, Signature, Timing
from salver.serving.bus import Bus
from salver.serving.ports import Codec, Inferring
from salver.wire.standing import PARAMETERS as STANDING_PARAMETERS
from salver.wire.standing import from_parameters

_LOG = logging.getLogger("salver.dataplane")
_NO_TIME = Timing()

ServableT = TypeVar("ServableT", covariant=True)
BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


class Lease(Protocol[ServableT]):
    """The right to use a loaded version until it is released."""

    @property
    def id(self) -> ModelId:
        """Which version it is."""
        ...

    @property
    def servable(self) -> ServableT:
        """What answers."""
        ...

    def release(self) -> None:
        """Give it back, exactly once."""
        ...


class Lessor(Protocol[ServableT]):
    """Hands out leases (lifecycle's manager)."""

    def acquire(self, name: str, version: str = "") -> Lease[ServableT]:
        """Raises NotFound or NotReady; never waits."""
        ...


class DataPlane(Generic[BodyT, ReplyT]):
    """Answers inference requests of every protocol.

    Args:
        lessor: Whom to ask for a loaded version.
        bus: Told of every answer.
        clock: Monotonic seconds, the same as the engines'.
        new_id: Makes incident ids for defects.
    """

    def __init__(
        self,
        lessor: Lessor[Inferring],
        bus: Bus,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._acquire = lessor.acquire
        self._emit = bus.emit
        self._clock = clock
        self._new_id = new_id

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        """What a model expects and gives.

        Raises:
            NotFound, NotReady: as ``infer``.
        """
        lease = self._acquire(model, version)
        try:
            return lease.id, lease.servable.signature
        finally:
            lease.release()

    async def infer(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        sender: Hashable = None,
    ) -> ReplyT:
        """Answer one request; an error becomes the protocol's own form of it.

        Args:
            model, version: Whom it is for; an empty version leaves the choice to the server.
            call: How it reached us; its deadline is tightened by the request's own ``timeout``
                parameter (microseconds, TR-R23), its standing amended by those of ``wire/standing.py``.
        """
        outcome = "ok"
        timing = _NO_TIME
        rows = size = 0
        why = ""
        standing = call.standing
        served = ModelId("", "")  # unknown models never become labels
        try:
            lease = self._acquire(model, version)
            try:
                served = lease.id
                servable = lease.servable
                request = codec.decode(body, servable.signature)
                deadline = call.deadline
                if request.parameters:
                    if "timeout" in request.parameters:
                        deadline = _sooner(deadline, call.arrival, request)
                    if not STANDING_PARAMETERS.isdisjoint(request.parameters):
                        standing = from_parameters(standing, request.parameters)
                rows, size = _extent(request)
                response = await servable.infer(request, deadline, sender, standing)
                timing = response.timing
                reply = codec.encode(request, response)
            finally:
                lease.release()
        except SalverError as error:
            outcome = error.code.value
            why = error.why
            if error.code in (Code.INTERNAL, Code.MODEL_FAILED):
                _LOG.warning("%s: %s", call.request_id or model, error, exc_info=error.__cause__)
            reply = codec.fault(error)
        except Exception as error:
            outcome = Code.INTERNAL.value
            incident = self._new_id()
            _LOG.exception("incident %s: model %r over %s", incident, model, call.protocol, exc_info=error)
            reply = codec.fault(Internal.incident(incident))
        except BaseException:  # cancelled: the caller went away
            outcome = Code.CANCELLED.value
            raise
        finally:
            self._emit(
                Served(
                    served.name,
                    served.version,
                    call.protocol,
                    outcome,
                    self._clock() - call.arrival,
                    timing,
                    rows,
                    call.request_id,
                    call.traceparent,
                    size,
                    why,
                    standing.tenant,
                )
            )
        return reply


def _extent(request: InferRequest) -> tuple[int, int]:
    """Rows of the first input, and bytes of all."""
    inputs = request.inputs
    if not inputs:
        return 0, 0
    first = inputs[0].array
    size: int = first.nbytes if len(inputs) == 1 else sum(tensor.array.nbytes for tensor in inputs)
    return first.shape[0] if first.ndim else 0, size


def _sooner(deadline: float | None, arrival: float, request: InferRequest) -> float | None:
    timeout = request.parameters["timeout"]
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise InvalidInput(
            f"parameter 'timeout' must be a whole number of microseconds, not {timeout!r}",
            field="parameters.timeout",
        )
    if timeout == 0:
        return deadline
    own = arrival + timeout / 1e6
    return own if deadline is None else min(own, deadline)


