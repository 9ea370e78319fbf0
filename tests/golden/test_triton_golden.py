"""The answers of a real Triton, case by case, and Salver's beside them.

``triton.jsonl`` holds what passes. ``docs/reference/conformance.md`` says where Salver differs, and why.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from triton_replay import Case, in_blocks, load, run_block

CASES = Path(__file__).with_name("triton.jsonl")
_BLOCKS = in_blocks(load(CASES))


@pytest.mark.parametrize("name", _BLOCKS)
def test_as_recorded(name: str, ports: Callable[[str], dict[str, int]]) -> None:
    """TR-R1 to TR-R30, TR-R37, TR-G1 to TR-G12: a case's own rows stand in its line."""
    block: list[Case] = _BLOCKS[name]
    assert not run_block(ports(block[0].get("profile", "main")), block)
