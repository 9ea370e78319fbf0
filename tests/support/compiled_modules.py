"""The modules that the accelerated build compiles, as its hook names them."""

import ast
from pathlib import Path

_HOOK = Path(__file__).parent.parent.parent / "hatch_build.py"


def _compiled() -> tuple[str, ...]:
    for node in ast.parse(_HOOK.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            names: tuple[str, ...] = ast.literal_eval(node.value)
            return names
    raise LookupError("hatch_build.py names no modules")


#: Paths below ``src/salver``.
COMPILED = _compiled()
