"""Scheduler of a step-wise model: which sequences take part in the next step.

Iteration-level scheduling (Orca, OSDI 2022) with chunked prefills (Sarathi-Serve, OSDI 2024): between any two
steps sequences join free slots and finished ones leave. Pure: the time is an argument and the payload is
never read. The shell is ``stepper.py``; ``tests/support/step_simulator.py`` drives the same object.

* A sequence joins when a slot is free and its whole budget, prompt and longest answer, fits beside
  what is reserved: no sequence runs out of memory midway. Within a level it is first come, first served.
* Every active sequence takes one token in each step: its last own one, or the next of its prompt.
* In addition the oldest unread prompt is processed in chunks that lengthen the step only a little
  (:class:`~salver.kernel.engine.step_pace.StepPace`), so that the others' tokens keep coming evenly.
* Where states after parts of prompts are kept (``block``), a prompt is read in whole blocks and then the rest
  at once, one prompt at a time, so that its state depends on nothing but its tokens.
"""

from collections import deque
from typing import Any

import msgspec

from salver.kernel.engine.refusals import full, so_many
from salver.kernel.engine.step_pace import StepPace
from salver.words.artifacts import Steps
from salver.words.errors import InvalidInput

_NOWHERE = -1


class StepSequence:
    """One sequence, from its arrival to its last token.

    Attributes:
        payload: An object of the caller.
        prompt: Number of prompt tokens, at least 1.
        most: Maximum tokens of the answer, at least 1.
        level: Priority, 1 being the highest.
        deadline: Seconds; None = never.
        slot: Index of its state; -1 while it waits and after it has left.
        read: Prompt tokens that the model has processed.
        given: Tokens of the answer so far.
        is_live: False once it has left.
    """

    __slots__ = ("deadline", "given", "is_live", "level", "most", "payload", "prompt", "read", "slot")

    def __init__(
        self, payload: Any, prompt: int, most: int, level: int = 1, deadline: float | None = None
    ) -> None:
        self.payload = payload
        self.prompt = prompt
        self.most = most
        self.level = level
        self.deadline = deadline
        self.slot = _NOWHERE
        self.read = 0
        self.given = 0
        self.is_live = True

    def __repr__(self) -> str:
        where = "waiting" if self.is_live else "gone"
        if self.slot >= 0:
            where = f"slot {self.slot}"
        return f"<StepSequence {where}, {self.read}/{self.prompt} read, {self.given}/{self.most} given>"

    @property
    def is_answering(self) -> bool:
        """Return whether its whole prompt has been processed."""
        return self.read == self.prompt


class StepPlan(msgspec.Struct, frozen=True):
    """Work of one step.

    Attributes:
        freed: Slots of finished sequences, to be released first.
        expired: Sequences that have just left because their deadline has passed.
        rows: Sequences that advance by one token, each in its slot of ``slots``.
        chunk: Sequence that processes ``chunk_tokens`` prompt tokens instead, in ``chunk_slot``; or None.
    """

    freed: list[int]
    expired: list[StepSequence]
    rows: list[StepSequence]
    slots: list[int]
    chunk: StepSequence | None = None
    chunk_slot: int = _NOWHERE
    chunk_tokens: int = 0

    @property
    def everyone(self) -> list[StepSequence]:
        """Return all sequences of the step."""
        if self.chunk is None:
            return self.rows
        return [*self.rows, self.chunk]

    def advance(self) -> int:
        """Update the sequences after the step; return the number of prompt tokens processed."""
        read = 0
        for sequence in self.rows:
            if sequence.read < sequence.prompt:
                sequence.read += 1
                read += 1
        if self.chunk is not None:
            # Less than planned if the beginning of the prompt turned out to be known.
            chunk_read = min(self.chunk_tokens, self.chunk.prompt - self.chunk.read)
            self.chunk.read += chunk_read
            read += chunk_read
        return read


class StepScheduler:
    """Waiting sequences, slots and token budget of one model version.

    Not thread-safe: its owner holds a lock, except for ``waiting`` and ``active``, which may be read at any
    time.

    Args:
        max_queue: Maximum number of waiting sequences.
        max_passes: Joins that may pass over a waiting level before its oldest sequence goes first.
    """

    def __init__(self, limits: Steps, max_queue: int, max_passes: int = 16) -> None:
        self.pace = StepPace(limits.max_chunk)
        #: Tokens of a block in which prompts are read; 0 = any number of tokens at once.
        self.block = 0
        self._limits = limits
        self._budget = limits.max_tokens or limits.max_sequences * limits.max_context
        self._max_queue = max_queue
        self._max_passes = max_passes
        self._waiting: dict[int, deque[StepSequence]] = {}
        self._passed: dict[int, int] = {}
        self._active: list[StepSequence] = []  # in order of joining
        self._free = list(range(limits.max_sequences))[::-1]
        self._freed: list[int] = []
        self._timed = 0  # live sequences with a deadline
        #: Number of sequences without a slot. A separate counter, because counting them needs the lock.
        self.waiting = 0
        self.reserved = 0  # tokens of all active sequences, including those still to come

    def __repr__(self) -> str:
        return f"<StepScheduler {self.waiting} waiting, {self.active} active>"

    @property
    def active(self) -> int:
        """Return the number of sequences with a slot."""
        return len(self._active)

    @property
    def has_work(self) -> bool:
        """Return whether a step, or at least the release of a slot, is due."""
        return bool(self._active or self._freed or self._waiting)

    def offer(self, sequence: StepSequence) -> None:
        """Add a sequence to the queue.

        Raises:
            InvalidInput: it could never run.
            Overloaded: the queue is full; nothing was changed.
        """
        # A sequence that can never be admitted would block the head of its queue forever.
        most = min(self._limits.max_context, self._budget)
        if sequence.prompt + sequence.most > most:
            raise InvalidInput(
                f"a prompt of {sequence.prompt} tokens and an answer of up to {sequence.most} are more than "
                f"the {most} tokens that one sequence may have",
                field="max_tokens",
                fix="Shorten the prompt, or ask for fewer tokens.",
            )
        if self.waiting >= self._max_queue:
            raise full(so_many(self.waiting, "sequences"))
        self._waiting.setdefault(sequence.level, deque()).append(sequence)
        self.waiting += 1
        self._timed += sequence.deadline is not None

    def finish(self, sequence: StepSequence) -> bool:
        """Remove a finished or cancelled sequence and free its slot; return False if it had left."""
        if not sequence.is_live:
            return False
        sequence.is_live = False
        self._timed -= sequence.deadline is not None
        if sequence.slot >= 0:
            self._active.remove(sequence)
            # The model releases the slot's state at the next step; only then is it free.
            self._freed.append(sequence.slot)
            self.reserved -= sequence.prompt + sequence.most
            sequence.slot = _NOWHERE
        else:
            queue = self._waiting[sequence.level]
            queue.remove(sequence)
            self.waiting -= 1
            if not queue:
                self._forget(sequence.level)
        return True

    def everyone(self) -> list[StepSequence]:
        """Return all waiting and active sequences."""
        return [*self._active, *(s for queue in self._waiting.values() for s in queue)]

    def plan(self, now: float) -> StepPlan:
        """Return the next step; without rows and chunk there is nothing to run."""
        expired = []
        if self._timed:
            expired = [s for s in self.everyone() if s.deadline is not None and s.deadline <= now]
            for sequence in expired:
                self.finish(sequence)
        freed, self._freed = self._freed, []
        self._free += freed
        if self._waiting:
            self._join()
        rows = self._active.copy()
        # Only the oldest unread prompt gets a chunk; the others read one token in the step itself.
        chunk = next((s for s in rows if s.read < s.prompt), None)
        size = 0
        if chunk is not None and self.block:
            rows = [s for s in rows if s.is_answering]
            size = self._whole_blocks(chunk.prompt - chunk.read, len(rows))
            return StepPlan(freed, expired, rows, [s.slot for s in rows], chunk, chunk.slot, size)
        if chunk is not None:
            size = min(self.pace.chunk(len(rows) - 1), chunk.prompt - chunk.read)
        # A chunk of one token is what the step does anyway.
        if chunk is None or size < 2:
            return StepPlan(freed, expired, rows, [s.slot for s in rows])
        rows.remove(chunk)
        return StepPlan(freed, expired, rows, [s.slot for s in rows], chunk, chunk.slot, size)

    def _whole_blocks(self, left: int, rows: int) -> int:
        """Return how much of an unread prompt to read: whole blocks, or what is left after the last one."""
        whole = left // self.block
        if not whole:
            return left
        return self.block * min(whole, max(1, self.pace.chunk(rows) // self.block))

    def _join(self) -> None:
        while self._free and self._waiting:
            level = self._next_level()
            queue = self._waiting[level]
            need = queue[0].prompt + queue[0].most
            if self.reserved + need > self._budget:
                return  # no later sequence may overtake it, or it would starve
            sequence = queue.popleft()
            self.waiting -= 1
            self.reserved += need
            sequence.slot = self._free.pop()
            self._active.append(sequence)
            self._passed[level] = 0
            if not queue:
                self._forget(level)
            for other in self._waiting:
                if other > level:
                    self._passed[other] = self._passed.get(other, 0) + 1

    def _next_level(self) -> int:
        """Return the highest waiting level, or one that has been passed over too often."""
        levels = sorted(self._waiting)
        for level in levels[1:]:
            if self._max_passes and self._passed.get(level, 0) >= self._max_passes:
                return level
        return levels[0]

    def _forget(self, level: int) -> None:
        del self._waiting[level]
        self._passed.pop(level, None)
