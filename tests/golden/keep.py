"""Which recorded cases pass now? Asks all of some groups, says what differs, and keeps the rest as tests.

    python tests/golden/keep.py RECORDED.jsonl GROUP...

The kept cases of these groups in ``triton.jsonl`` are replaced; all stand in the order of their recording.
Of a scenario, those steps are kept that hold without the ones that do not.
"""

import json
import sys
import tempfile
from pathlib import Path

from triton_replay import in_blocks, load, run_block

from conftest import PROFILES, start, wait

KEPT = Path(__file__).with_name("triton.jsonl")


def main(recorded: str, *groups: str) -> None:
    """Rewrites ``triton.jsonl``."""
    every = load(Path(recorded))
    place = {case["id"]: number for number, case in enumerate(every)}
    cases = [c for c in every if c["group"] in groups]
    kept = [case for case in load(KEPT) if case["group"] not in groups] if KEPT.exists() else []
    for profile in PROFILES:
        asked = [case for case in cases if case.get("profile", "main") == profile]
        if not asked:
            continue
        passed = 0
        with tempfile.TemporaryDirectory() as folder, start(Path(folder), profile) as server:
            wait(server, profile)
            for block in in_blocks(asked).values():
                wrong = run_block(server.ports, block)
                for id, reason in wrong.items():
                    print(f"{id}: {reason}")
                rest = [case for case in block if case["id"] not in wrong]
                if not wrong or (rest and not run_block(server.ports, rest)):
                    kept += rest
                    passed += len(rest)
        print(f"{profile}: {passed} of {len(asked)} kept")
    kept.sort(key=lambda case: place[case["id"]])
    lines = [json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in kept]
    KEPT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
