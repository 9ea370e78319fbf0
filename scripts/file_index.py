"""Write docs/reference/files.md: every module of Salver with the first line of its docstring."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "files.md"


def page() -> str:
    """Return the text of the page."""
    source = ROOT / "src" / "salver"
    folders: dict[Path, list[Path]] = {}
    for path in sorted(source.rglob("*.py")):
        if "shim" not in path.parts:
            folders.setdefault(path.parent, []).append(path)
    out = ["# Index of files", "", "Written by `python scripts/file_index.py` from the docstrings.", ""]
    for folder, paths in folders.items():
        out += [f"## `{folder.relative_to(source.parent)}/`", "", "| module | purpose |", "|---|---|"]
        for path in paths:
            lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
            purpose = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", lines[0] if lines else "").replace("|", "\\|")
            out.append(f"| `{path.name}` | {purpose} |")
        out.append("")
    return "\n".join(out)


if __name__ == "__main__":
    PAGE.write_text(page())
