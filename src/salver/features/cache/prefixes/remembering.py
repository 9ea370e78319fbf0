"""A step model that remembers states after the beginnings of prompts."""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from salver.backends.protocol import ResumableSteps
from salver.features.cache.prefixes.tree import BlockTree, Visit, digests_of
from salver.words.messages import ModelId
from salver.words.tensor import Array

_LOG = logging.getLogger("salver.cache")
#: Bytes of a block besides its arrays: its record, digests and places in tables (64-bit CPython; tested).
_OVERHEAD: Final = 1200
_ARRAY: Final = 150  # bytes of an array besides its data
_WEIGHT: Final = 0.1  # of the newest of about ten values in a mean


class PrefixCounts(msgspec.Struct):
    """Prompts of a model with a prefix cache.

    Attributes:
        known: Tokens whose states were known.
        read: Tokens that the model has read.
        read_s: Seconds of the model for these.
        own_s: Seconds for looking up, filling slots with known states, and copying new ones.
    """

    known: int = 0
    read: int = 0
    read_s: float = 0.0
    own_s: float = 0.0

    @property
    def saved_s(self) -> float:
        """Return the seconds that known tokens would have taken, less those of the cache itself."""
        if not self.read:
            return 0.0
        return self.known * self.read_s / self.read - self.own_s


class PrefixStore:
    """The blocks of all models, whose steps run on threads of their own.

    Args:
        is_shared: Whether tenants share what is known.
        clock: Monotonic seconds.

    Attributes:
        lock: Guards the tree.
    """

    def __init__(self, tree: BlockTree, clock: Callable[[], float], *, is_shared: bool = False) -> None:
        self.tree = tree
        self.clock = clock
        self.is_shared = is_shared
        self.lock = threading.Lock()


class _Reading:
    """A slot whose prompt is being read."""

    __slots__ = ("at", "visit")

    def __init__(self, visit: Visit, at: int) -> None:
        self.visit = visit
        self.at = at  # tokens that the slot has read


class RememberingSteps:
    """A step model with a prefix cache; see :class:`~salver.backends.protocol.RecallingSteps`.

    Prompts are read in blocks, one call each, and the rest in one more, so that a state depends only on the
    tokens: with another number of tokens in a call, a network may add up in another order.

    Args:
        model: Closed by this.
        block: Tokens of a block.
    """

    def __init__(self, id: ModelId, model: ResumableSteps, block: int, store: PrefixStore) -> None:
        self.id = id
        self.block = block
        self.counts = PrefixCounts()
        self.step = model.step
        self._model = model
        self._store = store
        # Of this copy only, so that an update knows nothing of what the version before it left.
        self._copy = secrets.token_bytes(16)
        self._readings: dict[int, _Reading] = {}
        self._block_s = 0.0

    def __repr__(self) -> str:
        return f"<RememberingSteps {self.id}, blocks of {self.block}>"

    def recall(self, slot: int, tokens: Sequence[int], owner: str) -> int:
        """See :class:`~salver.backends.protocol.RecallingSteps`."""
        store, block, clock = self._store, self.block, self._store.clock
        if not block:
            return 0
        began = clock()
        root = self._copy if store.is_shared else self._copy + owner.encode()
        # Not the whole prompt: the scores after its last token are wanted, too.
        most = (len(tokens) - 1) // block
        data = np.array(tokens, np.int64).tobytes()
        step = 8 * block
        digests = digests_of(root, (data[at * step : (at + 1) * step] for at in range(most)))
        with store.lock:
            visit = store.tree.visit(self._copy, digests, began)
        known = len(visit.path) * block
        if known:
            try:
                self._model.resume(slot, [each.value for each in visit.path], known)
            except Exception as error:
                _LOG.warning("model %s cannot go on from a known state: %s", self.id, error)
                self._leave(visit)
                self._model.release(slot)
                known = 0
        self._readings[slot] = _Reading(visit, known)
        self.counts.known += known
        self.counts.own_s += clock() - began
        return known

    def prefill(self, slot: int, tokens: Array) -> Array:
        """See :class:`~salver.backends.protocol.StepModel`."""
        reading = self._readings.get(slot)
        if reading is None:
            return self._model.prefill(slot, tokens)
        block, clock, counts = self.block, self._store.clock, self.counts
        done = 0
        while done < len(tokens):
            piece = tokens[done : done + block - reading.at % block]
            began = clock()
            scores = self._model.prefill(slot, piece)
            took = clock() - began
            counts.read_s += took
            counts.read += len(piece)
            done += len(piece)
            reading.at += len(piece)
            if not reading.at % block:
                self._block_s += (took - self._block_s) * (_WEIGHT if self._block_s else 1.0)
                self._keep(slot, reading)
        return scores

    def release(self, slot: int) -> None:
        """See :class:`~salver.backends.protocol.StepModel`."""
        reading = self._readings.pop(slot, None)
        if reading is not None:
            self._leave(reading.visit)
        self._model.release(slot)

    def close(self) -> None:
        """Forget what is known, and close the model."""
        for reading in self._readings.values():
            self._leave(reading.visit)
        self._readings.clear()
        with self._store.lock:
            self._store.tree.forget(self._copy)
        self._model.close()

    def check(self, vocabulary: int, most: int) -> None:
        """See :class:`~salver.backends.protocol.RecallingSteps`."""
        size = 2 * self.block + 1
        if size + 1 > most:
            _LOG.warning(
                "model %s gets no prefix cache: a sequence may have %d tokens, and two blocks are %d "
                "(steps.prefix_block)", self.id, most, size - 1,
            )  # fmt: skip
            self.block = 0
            return
        tokens = np.arange(size, dtype=np.int64) * 7919 % vocabulary
        parts: list[tuple[Array, ...]] = []
        expected = self._trial(tokens, 0, parts)
        for known in (1, 2):
            self._model.resume(0, parts[:known], known * self.block)
            if self._trial(tokens, known) != expected:
                _LOG.warning(
                    "model %s gets no prefix cache: its scores after a known state are other ones", self.id
                )
                self.block = 0
                return

    def _trial(self, tokens: Array, known: int, parts: list[tuple[Array, ...]] | None = None) -> bytes:
        """Read tokens in slot 0 from a block on and release it; return the scores after the last two."""
        model, block = self._model, self.block
        for at in range(known * block, len(tokens), block):
            scores = model.prefill(0, tokens[at : at + block])
            if parts is not None and at + block < len(tokens):
                parts.append(model.save(0, at, at + block))
        following = model.step(np.array([0]), tokens[:1])
        model.release(0)
        return np.asarray(scores).tobytes() + np.asarray(following).tobytes()

    def _keep(self, slot: int, reading: _Reading) -> None:
        visit, store = reading.visit, self._store
        if not visit.adds or len(visit.path) == len(visit.digests):
            return
        began = store.clock()
        try:
            value = tuple(self._model.save(slot, reading.at - self.block, reading.at))
            size = sum(part.nbytes + _ARRAY for part in value) + _OVERHEAD
        except Exception as error:
            _LOG.warning("the state of model %s cannot be copied: %s", self.id, error)
            visit.adds = False
            return
        with store.lock:
            store.tree.add(visit, value, size, self._block_s)
        self.counts.own_s += store.clock() - began

    def _leave(self, visit: Visit) -> None:
        with self._store.lock:
            self._store.tree.leave(visit)
