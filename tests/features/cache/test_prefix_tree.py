"""Blocks of prompts: ratios of a real trace, and what holds for every sequence of prompts."""

import gzip
import json
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.features.cache.policies.queues import Lru
from salver.features.cache.prefixes.remembering import _OVERHEAD
from salver.features.cache.prefixes.returns import Returns
from salver.features.cache.prefixes.tree import BlockTree, digests_of

TRACE = Path(__file__).parent / "mooncake" / "conversation_head.jsonl.gz"


@pytest.fixture(scope="module")
def trace():
    return [json.loads(line) for line in gzip.decompress(TRACE.read_bytes()).splitlines()]


def lru_of_blocks(trace, capacity):
    """Hits of an LRU of single blocks, written down plainly: only while no earlier block was missing."""
    held, hits = OrderedDict(), 0
    for request in trace:
        is_known = True
        for block in request["hash_ids"]:
            if block in held:
                held.move_to_end(block)
                hits += is_known
                continue
            is_known = False
            if len(held) == capacity:
                held.popitem(last=False)
            held[block] = None
    return hits


def lru_of_policy(trace, capacity):
    policy, hits = Lru(capacity), 0
    for request in trace:
        is_known = True
        for block in request["hash_ids"]:
            if block in policy:
                policy.hit(block)
                hits += is_known
            else:
                is_known = False
                policy.insert(block, 1)
    return hits


def of_tree(trace, capacity, **options):
    tree, hits = BlockTree(capacity, **options), 0
    for request in trace:
        whole = request["hash_ids"][: request["input_length"] // 512]
        visit = tree.visit("m", [b"%d" % block for block in whole], request["timestamp"] / 1000)
        hits += len(visit.path)
        while tree.add(visit, "state", 1, 1.0):
            pass
        tree.leave(visit)
    return hits


def test_ratios_of_an_lru_of_blocks_are_exact(trace):
    """The ratios of the whole trace, which are published, are checked by benchmarks/prefix_traces.py."""
    found = {size: lru_of_policy(trace, size) for size in (1000, 2000, 4000, 10**9)}
    assert found == {size: lru_of_blocks(trace, size) for size in found}
    assert list(found.values()) == [638, 714, 1334, 2783]


def test_worth_saves_more_than_the_age_of_blocks(trace):
    plain = lru_of_policy(trace, 2000)
    assert of_tree(trace, 2000, is_plain=True) >= plain
    assert of_tree(trace, 2000) >= 1.25 * plain


def test_without_a_limit_all_that_was_seen_is_known(trace):
    assert of_tree(trace, 10**9) == of_tree(trace, 10**9, is_plain=True)


@pytest.mark.parametrize("is_plain", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    does=st.lists(
        st.tuples(st.text("ab", max_size=7), st.integers(0, 8), st.integers(1, 4), st.booleans()), max_size=40
    ),
    capacity=st.integers(1, 30),
)
def test_the_tree_is_whole_whatever_comes(is_plain, does, capacity):
    """Visits that stay, end, or stop in the middle; blocks of any size; one model is forgotten at the end."""
    tree, visits = BlockTree(capacity, is_plain=is_plain), []
    for now, (prompt, adds, size, stays) in enumerate(does):
        model = "one" if len(prompt) % 2 else "two"
        digests = digests_of(model.encode(), [each.encode() for each in prompt])
        visit = tree.visit(model, digests, float(now))
        for _ in range(adds):
            if not tree.add(visit, prompt, size, 1.0):
                break
        visits.append((model, visit))
        if not stays:
            for _, each in visits:
                tree.leave(each)
            visits.clear()
        blocks = tree._blocks
        assert tree.used == sum(block.size for block in blocks.values()) <= capacity
        for block in blocks.values():
            assert block.value is not None
            assert block.parent is None or blocks[block.parent.digest] is block.parent
            assert block.children == sum(other.parent is block for other in blocks.values())
        for _, each in visits:
            assert [block.digest for block in each.path] == each.digests[: len(each.path)]
            assert all(blocks[block.digest] is block for block in each.path)
    for _, each in visits:
        tree.leave(each)
    tree.forget("one")
    assert all(block.model == "two" for block in tree._blocks.values())
    assert tree.used == sum(block.size for block in tree._blocks.values())
    tree.forget("two")
    assert not len(tree) and not tree.used and not tree._queues


def test_a_dear_block_stays_and_a_large_one_goes():
    tree = BlockTree(4)
    for name, size, cost in (("dear", 1, 9.0), ("cheap", 1, 1.0), ("large", 2, 1.0)):
        visit = tree.visit(name, digests_of(name.encode(), [b"x"]), 0.0)
        assert tree.add(visit, name, size, cost)
        tree.leave(visit)
    visit = tree.visit("new", digests_of(b"new", [b"x", b"y", b"z"]), 0.0)
    assert [tree.add(visit, "new", 1, 5.0) for _ in range(3)] == [True, True, True]
    assert {block.value for block in tree._blocks.values()} == {"dear", "new"}


def test_a_prompt_that_returns_is_worth_more_each_time():
    returns, digests = Returns(), []
    kinds = []
    for turn in range(8):
        digests = digests_of(b"", [b"%d" % each for each in range(turn + 1)])
        kinds.append(returns.came(digests, turn * 60.0).kind)
    worths = [returns.worth(kind, 30.0) for kind in kinds]
    assert worths == sorted(worths) and worths[0] < worths[-1]
    assert returns.came(digests_of(b"other", [b"0"]), 1000.0).kind == kinds[0]


def test_a_block_takes_no_more_than_its_overhead():
    count = 11_000
    tracemalloc.start()
    try:
        tree = BlockTree(1 << 40)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):  # a prompt each, with all that is known of it
            visit = tree.visit("m", digests_of(b"%d" % number, [b"x"]), float(number))
            tree.add(visit, (number,), 1, 1.0)
            tree.leave(visit)
        each = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    assert each <= _OVERHEAD
