"""Make the peers' virtual environments, one after the other: ``.envs/NAME``.

    python benchmarks/peers/environment.py [NAME ...]

Each has its own, from ``peers/NAME/requirements.txt``. One that fails is named with the end of
pip's log, and the next one is made; its cells in the tables are then "–".
"""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent.parent / ".envs"


def make(name: str) -> bool:
    """True if the environment is there and holds what its requirements ask."""
    requirements = HERE / name / "requirements.txt"
    folder = ENVIRONMENTS / name
    stamp = folder / "requirements.txt"
    if stamp.exists() and stamp.read_bytes() == requirements.read_bytes():
        print(f"{name}: there already")
        return True
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(requirements)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: pip failed:\n{done.stderr[-1500:]}")
        return False
    stamp.write_bytes(requirements.read_bytes())
    print(f"{name}: made")
    return True


if __name__ == "__main__":
    known = sorted(path.parent.name for path in HERE.glob("*/requirements.txt"))
    asked = sys.argv[1:] or known
    if unknown := sorted(set(asked) - set(known)):
        sys.exit(f"unknown peer {', '.join(unknown)}; there are {', '.join(known)}")
    made = [make(name) for name in asked]
    sys.exit(0 if all(made) else 1)
