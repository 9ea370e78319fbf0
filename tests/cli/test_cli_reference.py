"""docs/reference/cli.md says what ``--help`` says. ``python tests/cli/test_cli_reference.py`` rewrites it."""

import re
from pathlib import Path

from salver.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
INTRODUCTION = """# Command line

What `salver COMMAND --help` says, in one page. Every command ends with 0 when all is well, with 1 and one
line on standard error when something is wrong, and with 2 when the command line itself is. Results go to
standard output, everything else to standard error; `--json` prints results, and errors too, as JSON objects.

Every option can be given by an environment variable, too: `SALVER_PORT` is `salver serve --port`; those of
the other commands have the command's name in them, as `SALVER_BENCH_SECONDS`. A flag goes first;
several values are separated by blanks; `true` sets a switch.

`salver --install-completion` installs completion for bash, zsh, fish or PowerShell.

"""


def page() -> str:
    """The reference, from the commands' own signatures and docstrings."""
    text = app().generate_docs().replace(" -m pytest", "")  # cyclopts shows how Python was started
    body = text[text.index("## salver serve") :]
    body = body[: body.index("## salver --install-completion")]
    body = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", body)
    body = re.sub(r"^\* (`[^`]*`): ", r"- \1: ", body, flags=re.M)
    return INTRODUCTION + body.replace(" *[default: False]*", "").rstrip() + "\n"


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), f"run: python {Path(__file__).name}"


def test_every_command_is_in_it() -> None:
    models = ("models list", "models load", "models unload")
    for name in ("serve", *models, "infer", "explain", "bench", "tune", "doctor"):
        assert re.search(rf"^##+ salver {name}$", PAGE.read_text(), re.M)


if __name__ == "__main__":
    PAGE.write_text(page())
