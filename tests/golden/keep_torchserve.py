"""Run all recorded cases of TorchServe, print differences, and keep the others as tests.

    python tests/golden/keep_torchserve.py RECORDED.jsonl [--group G] [--config NAME] [--command PROGRAM]

The kept cases of these groups and configurations in ``torchserve.jsonl`` are replaced; all stand in the order
of their recording. Of a scenario, those steps are kept that hold without the ones that do not. With
``--command`` another server is asked, as a real TorchServe, and nothing is kept.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from torchserve_replay import Case, Target, in_blocks, load, run_block
from torchserve_servers import CONFIGS, SALVER, serving

KEPT = Path(__file__).with_name("torchserve.jsonl")


def main() -> int:
    """Rewrites ``torchserve.jsonl``; 1 where something differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recorded", type=Path)
    parser.add_argument("--group", action="append", default=[])
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--command", default="")
    given = parser.parse_args()
    every = load(given.recorded)
    asked = [
        case
        for case in every
        if case["group"] in (given.group or [case["group"]])
        and case["config"] in (given.config or [case["config"]])
    ]
    names = {case["id"] for case in asked}
    kept = [case for case in load(KEPT) if case["id"] not in names] if KEPT.exists() else []
    command = given.command.split() or SALVER
    with tempfile.TemporaryDirectory() as work:
        for config, told in CONFIGS.items():
            mine = [case for case in asked if case["config"] == config]
            leads_on = any(CONFIGS[case["config"]].get("folder_of") == config for case in asked)
            if mine or leads_on:
                folder = Path(work) / told.get("folder_of", config)
                with serving(config, folder, command) as target:
                    found = _held(target, mine)
                print(f"{config}: {len(found)} of {len(mine)}", flush=True)
                kept += found
    if not given.command:
        place = {case["id"]: number for number, case in enumerate(every)}
        kept.sort(key=lambda case: place[case["id"]])
        lines = [json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in kept]
        KEPT.write_text("".join(f"{line}\n" for line in lines))
    return int(len([case for case in kept if case["id"] in names]) < len(asked))


def _held(target: Target, cases: Sequence[Case]) -> list[Case]:
    """Return the cases whose answers are as recorded."""
    found: list[Case] = []
    for block in in_blocks(cases).values():
        wrong = run_block(target, block)
        for id, reason in wrong.items():
            print(f"{id}: {reason}", flush=True)
        rest = [case for case in block if case["id"] not in wrong]
        if not wrong or (rest and not run_block(target, rest)):
            found += rest
    return found


if __name__ == "__main__":
    sys.exit(main())
