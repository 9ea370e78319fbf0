"""Claim: eviction policies have the miss counts that libCacheSim publishes, to the last digit.

    python benchmarks/cache_traces.py cloudPhysicsIO.oracleGeneral.bin
    python benchmarks/cache_traces.py zipf_1.0

The first trace is data/ of github.com/cacheMon/libCacheSim (its counts: test/test_evictionAlgo.c), the second
mydata/zipf/ of github.com/cacheMon/NSDI24-SIEVE. Neither is part of Salver.
"""

import argparse
import struct
from collections.abc import Iterator
from pathlib import Path

from salver.features.cache.local import POLICIES
from salver.features.cache.policies.frame import replay
from salver.features.cache.policies.tinylfu import TinyLfu

STEP = 128 << 20
#: Misses and missed bytes with 128, 256, ... 1024 MiB.
PUBLISHED = {
    "lru": (
        (93374, 89783, 83572, 81722, 72494, 72104, 71972, 71704),
        (4214303232, 4061242368, 3778040320, 3660569600, 3100927488, 3078128640, 3075403776, 3061662720),
    ),
    "fifo": (
        (93403, 89386, 84387, 84025, 72498, 72228, 72182, 72140),
        (4213112832, 4052646400, 3829170176, 3807412736, 3093146112, 3079525888, 3079210496, 3077547520),
    ),
    "sieve": (
        (91699, 86720, 78578, 76707, 69945, 66221, 64445, 64376),
        (4158632960, 3917211648, 3536227840, 3455379968, 3035580416, 2801699328, 2699456000, 2696345600),
    ),
    "s3fifo": (
        (89307, 82387, 77041, 76791, 71300, 70343, 70455, 70355),
        (4040718336, 3703628800, 3353047552, 3282235904, 3038256128, 2980646912, 2984458752, 2979649536),
    ),
    "gdsf": (
        (89068, 84750, 74853, 70488, 67919, 64180, 61029, 58721),
        (4210604032, 4057062912, 3719372800, 3436728320, 3271431168, 3029728768, 2828587520, 2677800448),
    ),
}
ZIPF = {"lru": (0.7894, 0.5400, 0.4247, 0.3033), "fifo": (0.8177, 0.5954, 0.4802, 0.3544)}
ZIPF["sieve"] = (0.6567, 0.4250, 0.3288, 0.2330)
#: libCacheSim's GDSF takes a million for the cost of everything, which decides how priorities are rounded.
COST = 1e6


def of_blocks(path: Path) -> list[tuple[int, int]]:
    records = struct.iter_unpack("<IQIq", path.read_bytes())
    return [(key, size) for _, key, size, _ in records]


def blocks(path: Path) -> Iterator[tuple[str, bool]]:
    requests = of_blocks(path)
    for name, (counts, lost) in PUBLISHED.items():
        found = [replay(POLICIES[name](STEP * n), requests, COST) for n in range(1, 9)]
        same = found == list(zip(counts, lost, strict=True))
        yield (
            f"{name:8} {' '.join(str(misses) for misses, _ in found)}  {'as published' if same else 'OTHER'}",
            same,
        )


def zipf(path: Path) -> Iterator[tuple[str, bool]]:
    requests = [(int(line), 1) for line in path.read_text().split()]
    for name, kind in POLICIES.items():
        found = [round(replay(kind(size), requests)[0] / len(requests), 4) for size in (10, 50, 100, 200)]
        same = tuple(found) == ZIPF.get(name, tuple(found))
        yield f"{name:8} {found}  {'as computed' if name in ZIPF and same else ''}", same
        choosy = [
            replay(kind(size, TinyLfu(1024)), requests)[0] / len(requests) for size in (10, 50, 100, 200)
        ]
        yield f"  with TinyLFU {[round(each, 4) for each in choosy]}", True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path)
    path = parser.parse_args().trace
    is_right = True
    for line, same in (blocks if path.suffix == ".bin" else zipf)(path):
        print(line, flush=True)
        is_right = is_right and same
    return 0 if is_right else 1


if __name__ == "__main__":
    raise SystemExit(main())
