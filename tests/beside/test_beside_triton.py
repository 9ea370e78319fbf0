"""What a tritonserver beside Salver answered to generated requests, and Salver's answers now."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "golden"))

from triton_replay import Case, in_blocks, load, run_block

_BLOCKS = in_blocks(load(Path(__file__).with_name("triton.jsonl")))


@pytest.mark.clause("TR-R19", "TR-R20", "TR-G6", "TR-C16", "TR-A3")
@pytest.mark.parametrize("name", _BLOCKS)
def test_as_a_tritonserver_beside_it(name: str, ports: dict[str, int]) -> None:
    """TR-R3 to TR-R30, TR-G3 to TR-G11, TR-C2 to TR-C16, TR-A2, TR-A3, TR-S4, TR-S7, TR-S8."""
    block: list[Case] = _BLOCKS[name]
    assert not run_block(ports, block)
