"""Blocks of prompts that share their beginnings: a radix tree whose leaves leave first.

A block is known by the digest of all tokens up to its end, so that equal blocks of different prompts are one
only where everything before them is equal, too. Only blocks without a successor are evicted: a block is of no
use without those before it. Pure: the time is an argument, and values are never read.
"""

import heapq
from collections.abc import Hashable, Iterable
from hashlib import blake2b
from typing import Any, Final

from salver.features.cache.prefixes.returns import Prompt, Returns

_DIGEST_BYTES: Final = 16
#: Models and kinds of blocks with a queue each.
_Queue = tuple[Hashable, int]
_PLAIN: Final = Prompt(0, 0, 0.0)


class Block:
    """Block of a prompt.

    Attributes:
        model: Whose it is.
        prompt: The prompt that used it last.
        value: Object of the caller; None once the block has left.
        size: Bytes.
        cost: Seconds to compute it again.
        used_at: Time of the last use.
        children: Number of blocks that follow it.
        holders: Visits whose last block it is.
        is_queued: It is in a queue, perhaps not in its own any more.
    """

    __slots__ = (
        "children", "cost", "digest", "holders", "is_queued", "model", "parent", "prompt", "size", "used_at",
        "value",
    )  # fmt: skip

    def __init__(self, visit: "Visit", parent: "Block | None", value: Any, size: int, cost: float) -> None:
        self.digest = visit.digests[len(visit.path)]
        self.model = visit.model
        self.prompt = visit.prompt
        self.parent = parent
        self.value = value
        self.size = size
        self.cost = cost
        self.used_at = visit.began
        self.children = self.holders = 0
        self.is_queued = False

    @property
    def queue(self) -> _Queue:
        """Return the queue that it belongs to while it is a leaf."""
        return self.model, self.prompt.kind

    def __lt__(self, other: "Block") -> bool:
        return self.digest < other.digest


class Visit:
    """Reading of one prompt: the blocks that are known, and then those that it adds.

    Attributes:
        model: Whose blocks they are.
        prompt: What is known of the prompt.
        digests: Of all whole blocks of the prompt.
        path: Blocks that are there, from the first one.
        adds: Whether further blocks are kept.
    """

    __slots__ = ("adds", "began", "digests", "model", "path", "prompt")

    def __init__(self, model: Hashable, prompt: Prompt, digests: list[bytes], began: float) -> None:
        self.model = model
        self.prompt = prompt
        self.digests = digests
        self.began = began
        self.path: list[Block] = []
        self.adds = True


class BlockTree:
    """Blocks of all models, within a number of bytes.

    Args:
        capacity: Bytes of all blocks.
        is_plain: The least recently used leaf leaves; else the one that is worth least: expected uses for a
            second of keeping it, times the seconds to compute it, by its bytes.

    Attributes:
        used: Bytes of the blocks.
        evictions: Blocks that have left for others.

    >>> tree = BlockTree(2)
    >>> first = tree.visit("m", digests_of(b"", [b"a", b"b", b"c"]), 0.0)
    >>> [tree.add(first, "state", 1, 1.0) for _ in range(3)]  # a block that has been read is not evicted
    [True, True, False]
    >>> len(tree.visit("m", digests_of(b"", [b"a", b"b", b"z"]), 1.0).path)
    2
    """

    def __init__(self, capacity: int, *, is_plain: bool = False) -> None:
        self.capacity = capacity
        self.used = self.evictions = 0
        self._is_plain = is_plain
        self._blocks: dict[bytes, Block] = {}
        self._queues: dict[_Queue, list[tuple[float, Block]]] = {}
        self._returns: dict[Hashable, Returns] = {}
        self._chosen: tuple[_Queue, float] | None = None  # queue that was chosen last, and its head's time

    def __repr__(self) -> str:
        return f"<BlockTree {len(self._blocks)} blocks, {self.used} of {self.capacity} bytes>"

    def __len__(self) -> int:
        return len(self._blocks)

    def visit(self, model: Hashable, digests: list[bytes], now: float) -> Visit:
        """Begin to read a prompt: find the longest path of known blocks, and note their use.

        Args:
            digests: See :func:`digests_of`.
        """
        path = []
        for digest in digests:
            block = self._blocks.get(digest)
            if block is None:
                break
            path.append(block)
        visit = Visit(model, self._came(model, digests, now), digests, now)
        self._chosen = None
        for block in path:
            self._use(block, visit)
        visit.path = path
        if visit.path:
            visit.path[-1].holders += 1
        return visit

    def add(self, visit: Visit, value: Any, size: int, cost: float) -> bool:
        """Keep the next block of a prompt; return whether it is kept, or was there already.

        Args:
            value: Not None.
            size: Bytes, at least 1.
            cost: Seconds to compute it again.
        """
        if not visit.adds or len(visit.path) == len(visit.digests):
            return False
        parent = visit.path[-1] if visit.path else None
        block = self._blocks.get(visit.digests[len(visit.path)])
        if block is None:
            block = Block(visit, parent, value, size, cost)
            if not self._make_room(block, visit.began):
                visit.adds = False
                return False
            self._blocks[block.digest] = block
            self.used += size
            if parent is not None:
                parent.children += 1
            self._enter(block)
        else:
            self._use(block, visit)
        if parent is not None:
            parent.holders -= 1
        block.holders += 1
        visit.path.append(block)
        return True

    def leave(self, visit: Visit) -> None:
        """End the reading of a prompt."""
        if visit.path:
            visit.path[-1].holders -= 1
            visit.path = []
        visit.adds = False

    def forget(self, model: Hashable) -> None:
        """Drop all blocks of a model, of which nobody reads a prompt."""
        for block in [block for block in self._blocks.values() if block.model == model]:
            del self._blocks[block.digest]
            self.used -= block.size
            block.value = None
        for queue in [queue for queue in self._queues if queue[0] == model]:
            del self._queues[queue]
        self._returns.pop(model, None)

    def _came(self, model: Hashable, digests: list[bytes], now: float) -> Prompt:
        """Note a prompt; return what is known of it."""
        if self._is_plain:
            return _PLAIN
        return self._returns_of(model).came(digests, now)

    def _returns_of(self, model: Hashable) -> Returns:
        found = self._returns.get(model)
        if found is None:
            found = self._returns[model] = Returns()
        return found

    def _use(self, block: Block, visit: Visit) -> None:
        block.prompt = visit.prompt
        block.used_at = max(block.used_at, visit.began)

    def _enter(self, leaf: Block) -> None:
        if not leaf.is_queued:
            leaf.is_queued = True
            heapq.heappush(self._queues.setdefault(leaf.queue, []), (leaf.used_at, leaf))

    def _make_room(self, newcomer: Block, now: float) -> bool:
        if newcomer.size > self.capacity:
            return False
        while self.used + newcomer.size > self.capacity:
            victim = self._victim(now)
            if victim is None or self._worth(victim, now) > self._worth(newcomer, now):
                return False
            self._evict(victim)
        return True

    def _worth(self, block: Block, now: float) -> float:
        if self._is_plain:
            return block.used_at
        returns = self._returns_of(block.model)
        return returns.worth(block.prompt.kind, now - block.used_at) * block.cost / block.size

    def _victim(self, now: float) -> Block | None:
        """Return the leaf that leaves next; None = all are held."""
        if self._chosen is not None:  # the rest of the prompt whose end left last is worth as little
            head = self._head(self._chosen[0])
            if head is not None and head.used_at == self._chosen[1]:
                return head
        heads = [head for queue in list(self._queues) if (head := self._head(queue)) is not None]
        if not heads:
            return None
        victim = min(heads, key=lambda block: self._worth(block, now))
        self._chosen = (victim.queue, victim.used_at)
        return victim

    def _head(self, name: _Queue) -> Block | None:
        """Return the least recently used leaf that nobody holds; put right what has changed."""
        queue, held, found = self._queues[name], [], None
        while queue and found is None:
            used_at, block = queue[0]
            if block.value is None or block.children or block.queue != name:
                heapq.heappop(queue)
                block.is_queued = False
                if block.value is not None and not block.children:
                    self._enter(block)
            elif block.used_at != used_at:
                heapq.heapreplace(queue, (block.used_at, block))
            elif block.holders:
                held.append(heapq.heappop(queue))
            else:
                found = block
        for entry in held:
            heapq.heappush(queue, entry)
        return found

    def _evict(self, victim: Block) -> None:
        del self._blocks[victim.digest]
        victim.value = None
        self.used -= victim.size
        self.evictions += 1
        parent, victim.parent = victim.parent, None
        if parent is not None:
            parent.children -= 1
            if not parent.children:
                self._enter(parent)


def digests_of(root: bytes, blocks: Iterable[bytes]) -> list[bytes]:
    """Return the digest of each block of a prompt with everything before it.

    Args:
        root: What blocks must have in common to be shared: the copy of a model, and the owner.
        blocks: The tokens of each block.

    >>> one, other = digests_of(b"m", [b"ab", b"cd"]), digests_of(b"m", [b"xy", b"cd"])
    >>> one[1] == other[1], digests_of(b"m", [b"ab"]) == one[:1]
    (False, True)
    """
    digests = []
    before = blake2b(root, digest_size=_DIGEST_BYTES).digest()
    for block in blocks:
        before = blake2b(block, digest_size=_DIGEST_BYTES, key=before).digest()
        digests.append(before)
    return digests
