"""The answers of a real TorchServe, case by case, and Salver's beside them.

``torchserve.jsonl`` holds what passes. ``docs/reference/conformance.md`` says where Salver differs, and why.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from torchserve_replay import Case, Target, in_blocks, load, run_block
from torchserve_servers import CONFIGS, serving

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import parity

CASES = load(Path(__file__).with_name("torchserve.jsonl"))
_BLOCKS = in_blocks(CASES)
_DIFFERS = Path(__file__).parents[2] / "docs" / "reference" / "conformance.md"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Target]]:
    """The server of a configuration; one at a time, since each has many workers."""
    with ExitStack() as stack:
        running: dict[str, Target] = {}

        def of(name: str) -> Target:
            if name not in running:
                stack.close()
                running.clear()
                folder = tmp_path_factory.mktemp("torchserve") / "server"
                if before := CONFIGS[name].get("folder_of"):
                    with serving(before, folder) as target:
                        for block in _BLOCKS.values():
                            if block[0]["config"] == before:
                                run_block(target, block)
                running[name] = stack.enter_context(serving(name, folder))
            return running[name]

        yield of


@pytest.mark.parametrize("name", _BLOCKS)
def test_as_recorded(name: str, targets: Callable[[str], Target]) -> None:
    """TS-R1 to TS-R22, TS-M1 to TS-M11, TS-G1 to TS-G7 and others: a case's own rows stand in its line."""
    block: list[Case] = _BLOCKS[name]
    assert not run_block(targets(block[0]["config"]), block)


def test_what_differs_is_told() -> None:
    """Each recorded case is a test, or stands by its name in the table of differences."""
    text = _DIFFERS.read_text().partition("## TorchServe, answer by answer")[2].partition("\n## ")[0]
    names = set(re.findall(r"`((?:" + "|".join(CONFIGS) + r")/[\w./-]+)`", text))
    assert not names & {str(case["id"]) for case in CASES}
    kept = Counter(str(case["group"]) for case in CASES)
    recorded = Counter(parity.TORCHSERVE.recorded())
    assert len(names) == sum((recorded - kept).values())
