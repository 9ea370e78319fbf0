"""How is a new version asked what others are asked, with nobody noticing?

After the caller's answer is determined a copy goes to the canary, behind the canary's own callers and past
every place that would remember it: no response cache, no prediction log, no sequences, no counts of requests
served. As many are under way at a time as the split says; what comes beyond is dropped and counted. The two
answers are held against each other (``experiments/compare.py``).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from salver.errors import Code, DeadlineExceeded, SalverError, Unsupported
from salver.events import Event, Shadowed
from salver.experiments.compare import Comparison, compare
from salver.experiments.shadows import ShadowReport, ShadowTally
from salver.messages import Call, InferRequest, InferResponse, Standing
from salver.releases import Assignment, Split
from salver.serving.dataplane import Lessor, joined
from salver.serving.ports import Inferring

_LOG: Final = logging.getLogger("salver.shadow")
_PATIENCE_S: Final = 60.0  # whoever takes longer gives its place to another
_LARGE: Final = 1 << 16  # bytes of outputs from which comparing them would keep others waiting
_BEHIND: Final = Standing(service="bulk")


class Shadowing:
    """Asks canaries what the stable versions were asked.

    Args:
        lessor: Gives loaded versions.
        emit: Told of every copy that is over.
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
        self._under_way: dict[str, set[asyncio.Task[None]]] = {}
        self._tallies: dict[str, ShadowTally] = {}

    def __repr__(self) -> str:
        return f"<Shadowing of {', '.join(self._tallies) or 'nothing'}>"

    def report(self, release: str) -> ShadowReport | None:
        """What came of a release's copies; None = there were none."""
        tally = self._tallies.get(release)
        return tally.report() if tally else None

    def forget(self, release: str) -> None:
        """It is over."""
        self._tallies.pop(release, None)
        for task in self._under_way.pop(release, ()):
            task.cancel()

    async def close(self) -> None:
        """Give up all that is under way."""
        tasks = [task for tasks in self._under_way.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def has_room(self, split: Split) -> bool:
        """See :class:`~salver.serving.splitting.Mirror`."""
        most = split.shadow.most_inflight if split.shadow is not None else 0
        if len(self._under_way.get(split.release, ())) < most:
            return True
        self._tally(split).dropped += 1
        return False

    def offer(
        self,
        split: Split,
        assignment: Assignment,
        request: InferRequest,
        answer: Sequence[InferResponse],
        call: Call,
    ) -> None:
        """See :class:`~salver.serving.splitting.Mirror`."""
        if "sequence_id" in request.parameters:
            self._tally(split).skipped += 1
            return
        work = self._copy(split, assignment, request, answer, call.request_id)
        task = asyncio.get_running_loop().create_task(work, name=f"shadow of {split.model}")
        under_way = self._under_way.setdefault(split.release, set())
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    def _tally(self, split: Split) -> ShadowTally:
        tally = self._tallies.get(split.release)
        if tally is None or tally.shadow != split.shadow:
            assert split.shadow is not None
            tally = self._tallies[split.release] = ShadowTally(split.shadow)
        return tally

    async def _copy(
        self,
        split: Split,
        assignment: Assignment,
        request: InferRequest,
        answer: Sequence[InferResponse],
        request_id: str,
    ) -> None:
        tally, found, seconds = self._tally(split), None, 0.0
        try:
            stable = joined(answer)
            asked = msgspec.structs.replace(
                request, model=split.model, version=split.canary, trace="", is_gone=None, deadline=None
            )
            canary = await self._ask(split, asked)
            seconds, outcome = canary.timing.inference, "ok"
            found = await self._compare(tally, stable, canary)
        except SalverError as error:
            outcome = error.code.value
        except Exception:
            outcome = Code.INTERNAL.value
            _LOG.exception("a copy for %s:%s failed", split.model, split.canary)
        event = Shadowed(
            split.model,
            split.canary,
            split.release,
            assignment.unit,
            request_id,
            outcome,
            answer[-1].timing.inference,
            seconds,
            found is not None and found.agrees,
            found.distance if found else 0.0,
        )
        tally.count(event, found)
        self._emit(event)

    async def _ask(self, split: Split, request: InferRequest) -> InferResponse:
        """The canary's own answer. Raises SalverError."""
        lease = self._lessor.acquire(split.model, split.canary)
        try:
            async with asyncio.timeout(self._patience):
                return await _whole(lease.servable, request, self._clock() + self._patience)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{split.model}:{split.canary} took more than {self._patience:g} s"
            ) from None
        finally:
            lease.release()

    async def _compare(self, tally: ShadowTally, stable: InferResponse, canary: InferResponse) -> Comparison:
        def work() -> Comparison:
            tally.weigh(stable.outputs, canary.outputs)
            return compare(tally.shadow.compare, tally.shadow.tolerance, stable.outputs, canary.outputs)

        size = sum(tensor.array.nbytes for tensor in stable.outputs)
        return await asyncio.to_thread(work) if size >= _LARGE else work()


async def _whole(servable: Inferring, request: InferRequest, deadline: float) -> InferResponse:
    """Its one answer, by the engine itself."""
    if getattr(servable, "stream", None) is None:
        infer: Callable[..., Awaitable[InferResponse]] = getattr(servable, "uncached", servable.infer)
        return await infer(request, deadline, None, _BEHIND)
    if not getattr(servable, "gives_parts", False):
        raise Unsupported("a version that gives any number of responses is no shadow of one that gives one")
    pieces = []
    async with aclosing(servable.stream(request, deadline, _BEHIND)) as answer:  # type: ignore[attr-defined]
        async for piece in answer:
            if piece.error is not None:
                raise piece.error
            pieces.append(piece)
    return joined(pieces)
