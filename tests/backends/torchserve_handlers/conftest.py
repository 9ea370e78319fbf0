"""The name ``ts`` as handlers see it, in this process; and the neighbours' modules."""

import sys
from pathlib import Path

SHIM = Path(__file__).parents[3] / "src" / "salver" / "backends" / "torchserve" / "shim"
sys.path[:0] = [str(SHIM), str(Path(__file__).parents[1])]
