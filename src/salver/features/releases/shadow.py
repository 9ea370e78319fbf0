"""Shadow requests to a new version, without effect on callers.

After the caller's answer is known, a copy goes to the canary with lower priority than its own callers and
without side effects: no response cache, no prediction log, no request counts. The split limits the number of
concurrent copies, and their memory is limited; further ones are dropped and counted. Sequences are not
copied: a version keeps their state, and a copy in the middle would find a state that no caller has. The two
answers are compared (``features/releases/experiments/compare.py``).
"""

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from salver.features.releases.experiments.answers import AnswerPieces, read, strung
from salver.features.releases.experiments.compare import Comparison, How, compare
from salver.features.releases.experiments.shadows import (
    NO_ANSWER,
    SEQUENCE,
    TOO_LARGE,
    ShadowReport,
    ShadowTally,
)
from salver.features.releases.splitting import COPY
from salver.kernel.serving.ports import Inferring, Lessor
from salver.kernel.serving.standing import PARAMETERS as STANDING_PARAMETERS
from salver.words import traceparent as w3c
from salver.words.errors import Code, DeadlineExceeded, SalverError
from salver.words.events import Event, Shadowed
from salver.words.handlers import status_of
from salver.words.messages import Call, InferRequest, InferResponse, Standing
from salver.words.releases import Source, Split
from salver.words.tensor import Tensor, size_of

_LOG: Final = logging.getLogger("salver.shadow")
_PATIENCE_S: Final = 60.0  # a copy that takes longer is given up
_LARGE: Final = 1 << 16  # bytes of outputs from which a comparison would block the event loop
_MOST_BYTES: Final = 64 << 20  # maximum bytes of requests and answers held by a release's copies
#: Comparisons that join all responses of a streamed answer; the others compare their number.
_STRUNG: Final[tuple[How, ...]] = ("prefix", "length", "distribution")
_BEHIND: Final = Standing(service="bulk")
#: Parameters for the caller, not for the model.
_CALLERS: Final = STANDING_PARAMETERS | {"timeout"}


class Shadowing:
    """Sender of copies to canaries.

    Args:
        lessor: Gives loaded versions.
        emit: Called for every finished copy.
        clock: Monotonic seconds, the engines' own.
        patience: Seconds after which a copy is given up.
    """

    def __init__(
        self,
        lessor: Lessor[Inferring],
        emit: Callable[[Event], None],
        clock: Callable[[], float],
        patience: float = _PATIENCE_S,
    ) -> None:
        self._lessor = lessor
        self._emit = emit
        self._clock = clock
        self._patience = patience
        self._under_way: dict[str, dict[asyncio.Task[None], int]] = {}  # with the bytes that each one holds
        self._carried: dict[str, Mapping[Source, str]] = {}
        self._tallies: dict[str, ShadowTally] = {}
        self._is_on = True

    def __repr__(self) -> str:
        return f"<Shadowing of {', '.join(self._tallies) or 'nothing'}>"

    def report(self, release: str) -> ShadowReport | None:
        """Return the results of a release's copies; None = none."""
        tally = self._tallies.get(release)
        return tally.report() if tally else None

    def forget(self, release: str) -> None:
        """Drop the results of a release."""
        self._tallies.pop(release, None)
        for task in self._under_way.pop(release, ()):
            task.cancel()

    async def close(self) -> None:
        """Cancel all active copies."""
        tasks = [task for tasks in self._under_way.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def switch(self, is_on: bool) -> None:
        """Start to drop all copies, or to send them again."""
        self._is_on = is_on

    def join(self, carried: dict[str, Mapping[Source, str]]) -> None:
        """See :class:`~salver.features.releases.splitting.Mirror`."""
        self._carried = carried

    def has_room(self, split: Split) -> bool:
        """See :class:`~salver.features.releases.splitting.Mirror`."""
        most = 0
        if split.shadow is not None and self._is_on:
            most = split.shadow.most_inflight
        if len(self._under_way.get(split.release, ())) < most:
            return True
        self._tally(split).dropped += 1
        return False

    def offer(
        self,
        split: Split,
        request: InferRequest,
        answer: Sequence[InferResponse] | None,
        call: Call,
    ) -> None:
        """See :class:`~salver.features.releases.splitting.Mirror`."""
        if request.parameters.get("sequence_id"):
            self._tally(split).skipped[SEQUENCE] += 1
            return
        size = size_of(request.inputs) + sum(size_of(piece.outputs) for piece in answer or ())
        if answer is None or size > _MOST_BYTES:
            self._tally(split).skipped[TOO_LARGE] += 1
            return
        if not answer or any(piece.error for piece in answer):
            self._tally(split).skipped[NO_ANSWER] += 1
            return
        under_way = self._under_way.setdefault(split.release, {})
        if sum(under_way.values()) + size > _MOST_BYTES:
            self._tally(split).dropped += 1
            return
        if not self.has_room(split):  # room that existed when the first piece of the answer arrived
            return
        work = self._copy(split, request, answer, call)
        task = asyncio.get_running_loop().create_task(work, name=f"shadow of {split.model}")
        under_way[task] = size
        task.add_done_callback(lambda task: under_way.pop(task, None))

    def _tally(self, split: Split) -> ShadowTally:
        tally = self._tallies.get(split.release)
        if tally is None or tally.shadow != split.shadow:
            assert split.shadow is not None
            tally = self._tallies[split.release] = ShadowTally(split.shadow)
        return tally

    async def _copy(
        self,
        split: Split,
        request: InferRequest,
        answer: Sequence[InferResponse],
        call: Call,
    ) -> None:
        tally, found, seconds = self._tally(split), None, 0.0
        trace = _mark(call.request_id)
        self._carried[trace] = COPY
        try:
            canary, are_parts = await self._ask(split, _copied(request, split, trace))
            seconds, outcome = canary[-1].timing.inference if canary else 0.0, "ok"
            found = await self._compare(tally, answer, canary, are_parts=are_parts)
        except SalverError as error:
            outcome = error.code.value
        except Exception:
            outcome = Code.INTERNAL.value
            _LOG.exception("a shadow request to %s:%s failed", split.model, split.canary)
        finally:
            self._carried.pop(trace, None)
        event = Shadowed(
            split.model,
            split.canary,
            split.release,
            call.unit,
            call.request_id,
            outcome,
            answer[-1].timing.inference,
            seconds,
            found is not None and found.agrees,
            found.distance if found else 0.0,
        )
        tally.count(event, found)
        self._emit(event)

    async def _ask(self, split: Split, request: InferRequest) -> tuple[Sequence[InferResponse] | None, bool]:
        """Return the canary's answer, None if it is too large to keep, and whether it is streamed.

        Raises:
            SalverError: the canary failed.
        """
        lease = self._lessor.acquire(split.model, split.canary)
        try:
            async with asyncio.timeout(self._patience):
                pieces = await _all_of_it(lease.servable, request, self._clock() + self._patience)
                return pieces, lease.servable.capabilities.gives_parts
        except TimeoutError:
            raise DeadlineExceeded(
                f"{split.model}:{split.canary} took more than {self._patience:g} s"
            ) from None
        finally:
            lease.release()

    async def _compare(
        self,
        tally: ShadowTally,
        answer: Sequence[InferResponse],
        canary: Sequence[InferResponse] | None,
        *,
        are_parts: bool,
    ) -> Comparison:
        how, tolerance = tally.shadow.compare, tally.shadow.tolerance
        if canary is None:
            return Comparison(False, math.inf, "the answer is too large to be looked at")
        if not canary:
            return Comparison(False, math.inf, "there is no response")
        statuses = [{status_of(piece.parameters) for piece in pieces} for pieces in (answer, canary)]
        if statuses[0] != statuses[1]:
            return Comparison(False, math.inf, f"the status is {max(statuses[1])}, not {max(statuses[0])}")
        if not are_parts and len(canary) != len(answer) and how not in _STRUNG:
            return Comparison(False, math.inf, f"there are {len(canary)} responses, not {len(answer)}")

        def work() -> tuple[Comparison, tuple[Tensor, ...], tuple[Tensor, ...]]:
            stable, other = (
                read(strung([output for piece in pieces for output in piece.outputs]))
                for pieces in (answer, canary)
            )
            return compare(how, tolerance, stable, other), stable, other

        size = sum(size_of(piece.outputs) for pieces in (answer, canary) for piece in pieces)
        # Ranking sorts, so that far fewer bytes hold the loop for as long.
        takes_long = size >= _LARGE or (how == "ranking" and size >= _LARGE >> 4)
        found, stable, other = await asyncio.to_thread(work) if takes_long else work()
        tally.weigh(stable, other)
        return found


def _copied(request: InferRequest, split: Split, trace: str) -> InferRequest:
    """Return the copy for the canary, in a trace that identifies all calls on its behalf."""
    parameters = request.parameters
    if not _CALLERS.isdisjoint(parameters):
        parameters = {name: value for name, value in parameters.items() if name not in _CALLERS}
    return msgspec.structs.replace(
        request,
        model=split.model,
        version=split.canary,
        trace=trace,
        parameters=parameters,
        is_gone=None,
        deadline=None,
    )


def _mark(request_id: str) -> str:
    """Return the trace of a copy, which is not recorded."""
    digits = hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=24).hexdigest()
    return w3c.format(w3c.TraceContext(digits[:32], digits[32:]))


async def _all_of_it(
    servable: Inferring, request: InferRequest, deadline: float
) -> Sequence[InferResponse] | None:
    """Return all responses, past the response cache; None = they are too many to keep."""
    capabilities = servable.capabilities
    if capabilities.stream is None:
        infer = capabilities.uncached or servable.infer
        return [await infer(request, deadline, None, _BEHIND)]
    pieces = AnswerPieces()
    async with aclosing(capabilities.stream(request, deadline, _BEHIND)) as answer:
        async for piece in answer:
            if piece.error is not None:
                raise piece.error
            pieces.add(piece)
            if pieces.kept is None:
                return None
    return pieces.kept
