"""What does a command look like in a terminal? Runs it and writes the picture as SVG.

Usage: terminal_picture.py docs/img/demo.svg 'make demo' -- .venv/bin/python examples/demo/main.py --once
The font is whatever monospace font the reader has: nothing is fetched when the picture is shown.
"""

import os
import pty
import re
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 132, 50
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n\s*", "", CONSOLE_SVG_FORMAT, flags=re.S).replace(
    "font-family: Fira Code", "font-family: DejaVu Sans Mono, Menlo, Consolas"
)


def output_of(command: list[str]) -> str:
    """What a command writes when it believes that a person is looking."""
    written = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        written.extend(data)
        return data

    os.environ |= {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    status = os.waitstatus_to_exitcode(pty.spawn(command, read))
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return written.decode().replace("\r\n", "\n").rstrip()


def main() -> None:
    target, typed, separator, *command = sys.argv[1:]
    assert separator == "--", __doc__
    shown = output_of(command).replace(str(Path.cwd()) + "/", "")
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text.assemble(("$ ", "bold green"), typed))
        console.print(Text.from_ansi(shown))
        svg = console.export_svg(title=typed, code_format=FORMAT)
    assert "url(" not in re.sub(r"url\(#", "", svg), "the picture would fetch something"
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(svg)


if __name__ == "__main__":
    main()
