"""Claim: the prefix cache saves a tenth more of the prompts than an LRU, with room for 10,000 blocks.

    python benchmarks/prefix_traces.py conversation_trace.jsonl

The traces are FAST25-release/traces/ of github.com/kvcache-ai/Mooncake, which are no part of Salver. The LRU
keeps all blocks of a prompt in their order, the partial one at its end included; a block counts while none
before it was missing. For the whole conversation trace its ratios are known, and checked.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from salver.features.cache.policies.queues import Lru
from salver.features.cache.prefixes.tree import BlockTree

TOKENS = 512  # of a block
SIZES = (1_000, 5_000, 10_000, 30_000, 50_000, 10**9)
CONVERSATION = (0.0445, 0.1104, 0.2112, 0.3257, 0.3546, 0.3664)
Request = Mapping[str, Any]


def read(path: Path) -> list[Request]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lru_hits(requests: Iterable[Request], capacity: int) -> int:
    """Return the blocks that an LRU of single blocks saves."""
    policy: Lru[int] = Lru(capacity)
    hits = 0
    for request in requests:
        is_known = True
        for block in request["hash_ids"]:
            if block in policy:
                policy.hit(block)
                hits += is_known
            else:
                is_known = False
                policy.insert(block, 1)
    return hits


def tree_hits(requests: Iterable[Request], capacity: int, *, is_plain: bool = False) -> int:
    """Return the blocks that the tree saves, which keeps only whole ones."""
    tree = BlockTree(capacity, is_plain=is_plain)
    hits = 0
    for request in requests:
        whole = request["hash_ids"][: request["input_length"] // TOKENS]
        visit = tree.visit("m", [b"%d" % block for block in whole], request["timestamp"] / 1000)
        hits += len(visit.path)
        while tree.add(visit, "state", 1, 1.0):
            pass
        tree.leave(visit)
    return hits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path)
    path = parser.parse_args().trace
    requests = read(path)
    blocks = sum(len(request["hash_ids"]) for request in requests)
    print(f"{len(requests)} prompts, {blocks} blocks\n{'room':>10}     LRU  leaves   worth")
    is_right = True
    for number, size in enumerate(SIZES):
        ratio = lru_hits(requests, size) / blocks
        plain = tree_hits(requests, size, is_plain=True) / blocks
        worth = tree_hits(requests, size) / blocks
        note = ""
        if blocks == 288_500 and round(ratio, 4) != CONVERSATION[number]:
            is_right, note = False, f"  OTHER than {CONVERSATION[number]}"
        print(
            f"{size:>10}  {ratio:.4f}  {plain:.4f}  {worth:.4f} ({worth / ratio - 1:+.1%}){note}", flush=True
        )
    return 0 if is_right else 1


if __name__ == "__main__":
    raise SystemExit(main())
