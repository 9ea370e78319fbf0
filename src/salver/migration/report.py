"""What is told of a deployment of another server, and in which words?

The records of a report, and what is common to the three servers: flags judged by the very tables that their
command lines use here, and paths of containers found in the folder. It writes nothing.
"""

import re
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from salver.migration.models import FAILS, Model
from salver.terminal.server_flags import CommandLine, ParsedFlags
from salver.words.errors import SalverError

if TYPE_CHECKING:
    from salver.configuration import ServeConfig
    from salver.migration.deployment import Deployment, Started

Becomes = Literal["used", "no effect", "differs", "refused"]
#: Stands for the folder that takes written files, in words of a command line.
FILES: Final = "{files}"
_NO_EFFECT: Final = re.compile(
    r"^(?:(.*?): )?(.+?) (?:is accepted(?:,)? and has|has) no effect(?: here| yet)?(?:: (.*))?$"
)

#: Of TorchServe, TensorFlow Serving, Triton and its platforms, OpenTelemetry, and of threads.
_COUNTS: Final = re.compile(r"(?:TS|TF|SAGEMAKER|AIP|OTEL|OMP|LOG|METRICS)_")


class Setting(msgspec.Struct, frozen=True):
    """What becomes of a flag, or of a key of a file.

    Attributes:
        where: File, and line where it is known.
        why: Empty for what is used as it is.
    """

    server: str
    where: str
    name: str
    value: str
    becomes: Becomes
    why: str = ""


class Service(msgspec.Struct, frozen=True):
    """One server of the deployment, and how Salver takes its place.

    Attributes:
        where: File and line that start it; empty = none does, and the words were made of what lies there.
        words: Of the command line, behind ``salver``; :data:`FILES` in them stands for a folder.
        files: That the words name, by name: the deployment's, with its paths as they are here.
        problem: Why it does not start, or empty.
        remarks: What else to know.
        config: What the words come to; None where they come to nothing.
        environment: Variables that the deployment sets and that count here.
    """

    server: str
    where: str
    words: tuple[str, ...]
    models: tuple[Model, ...] = ()
    settings: tuple[Setting, ...] = ()
    files: Mapping[str, bytes] = {}
    problem: str = ""
    remarks: tuple[str, ...] = ()
    config: "ServeConfig | None" = None
    environment: Mapping[str, str] = {}

    @property
    def runs(self) -> bool:
        """Everything does."""
        return not self.problem and all(model.verdict != FAILS for model in self.models)

    def words_in(self, folder: str) -> list[str]:
        """The words, with the folder that holds the files."""
        return [word.replace(FILES, folder) for word in self.words]

    def command(self, folder: str = ".") -> str:
        """As one types it.

        >>> Service("triton", "", ("serve", "--model-repository=a b")).command()
        "salver serve '--model-repository=a b'"
        """
        return shlex.join(["salver", *self.words_in(folder)])


def counting(environment: Mapping[str, str], more: Container[str] = ()) -> dict[str, str]:
    """The variables that mean something to a server here.

    Args:
        more: That files of the deployment name.

    >>> counting({"TS_JOB_QUEUE_SIZE": "7", "PATH": "/bin"})
    {'TS_JOB_QUEUE_SIZE': '7'}
    """
    return {name: text for name, text in environment.items() if _COUNTS.match(name) or name in more}


def place_of(started: "Started", deployment: "Deployment") -> str:
    """File and line, as one looks them up."""
    file = started.file.relative_to(deployment.folder)
    return f"{file}:{started.launch.line}" if started.launch.line else str(file)


def in_flags(words: Sequence[str]) -> Iterator[list[str]]:
    """The words of each flag: itself, and what follows up to the next."""
    group: list[str] = []
    for word in words:
        if word.startswith("--") and group:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def flags_judged(words: Sequence[str], dialect: CommandLine, where: str) -> tuple[list[Setting], list[str]]:
    """What becomes of each flag, and the words of those that are taken."""
    found: list[Setting] = []
    taken: list[str] = []
    for group in in_flags(words):
        name, equals, value = group[0].partition("=")
        value = value if equals else " ".join(group[1:])
        try:
            given = ParsedFlags(group, dialect)
        except SalverError as error:
            found.append(Setting(dialect.name, where, name, value, "refused", str(error)))
            continue
        taken += group
        ignored = dialect.ignored.get(name.removeprefix("--"))
        if ignored is not None and list(given):
            found.append(Setting(dialect.name, where, name, value, "no effect", ignored[1]))
        else:
            found.append(Setting(dialect.name, where, name, value, "used"))
    return found, taken


def noticed(server: str, notices: Sequence[str], settings: Sequence[Setting], folder: Path) -> list[Setting]:
    """Notices of the log that are not told yet, as settings."""
    told = {setting.name for setting in settings if setting.becomes == "no effect"}
    found = []
    for notice in notices:
        match = _NO_EFFECT.match(notice)
        where, name, why = (match[1] or "", match[2], match[3] or "") if match else ("", notice, "")
        if not any(f".{each}".endswith(f".{name}") for each in told):
            becomes: Becomes = "no effect" if match else "differs"
            where = where.replace(f"{folder}/", "")
            found.append(Setting(server, where, name, "", becomes, why))
    return found


def located(
    words: Sequence[str],
    named: Sequence[str],
    deployment: "Deployment",
    started: "Started",
    only: "Path | None",
) -> tuple[list[str], list[str]]:
    """Words with the paths of these flags as they are here, and what is to be said of those that are not.

    Args:
        only: What the first of the flags means where its path is nowhere, since there is no other.
    """
    found: list[str] = []
    lost: list[str] = []
    for group in in_flags(words):
        name, equals, value = group[0].partition("=")
        value = value if equals else "".join(group[1:2])
        if name.removeprefix("--") not in named or "://" in value or not value:
            found += group
            continue
        here = deployment.meant(value, started.launch, started.file)
        if here is None and name.removeprefix("--") == named[0] and only is not None:
            here = only
        if here is None:
            lost.append(f"{name} {value} is nowhere in {deployment.folder}")
            found += group
        else:
            found += [f"{name}={here}"] + (group[1:] if equals else group[2:])
    return found, lost
