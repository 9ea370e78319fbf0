"""The name ``ts`` as handlers see it, in this process; and the neighbours' modules."""

import sys
from pathlib import Path

SHIM = Path(__file__).parents[4] / "src" / "salver" / "dialects" / "torchserve" / "shim"
sys.path.insert(0, str(SHIM))
