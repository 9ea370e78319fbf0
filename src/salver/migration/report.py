"""Records of a report on a deployment, and functions that the servers' reports share.

Flags are judged by the tables that Salver's own command lines use; paths of containers are looked for in the
folder. It writes nothing.
"""

import re
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from salver.configuration import ServeConfig
from salver.migration.deployment import Deployment, ServerStart
from salver.migration.models import FAILS, Model
from salver.terminal.server_flags import CommandLine, ParsedFlags
from salver.words.errors import SalverError

Becomes = Literal["used", "no effect", "differs", "refused"]
#: Placeholder in a command line for the folder with the written files.
FILES: Final = "{files}"
_NO_EFFECT: Final = re.compile(
    r"^(?:(.*?): )?(.+?) (?:is accepted(?:,)? and has|has) no effect(?: here| yet)?(?:: (.*))?$"
)

#: Variables of TorchServe, TensorFlow Serving, Triton, its platforms, OpenTelemetry, and of threads.
_RELEVANT: Final = re.compile(r"(?:TS|TF|SAGEMAKER|AIP|OTEL|OMP|LOG|METRICS)_")


class Setting(msgspec.Struct, frozen=True):
    """Effect of a flag, or of a key of a file.

    Attributes:
        where: File, and line where it is known.
        becomes: Its effect here.
        why: Empty for settings that are used as they are.
    """

    server: str
    where: str
    name: str
    value: str
    becomes: Becomes
    why: str = ""


class Service(msgspec.Struct, frozen=True):
    """A server of the deployment, and the command line that replaces it.

    Attributes:
        where: File and line that start it; empty = none does, and the words were derived from the files.
        words: The command line behind ``salver``; :data:`FILES` in it stands for a folder.
        files: Files that the words name, by name: the deployment's, with paths of this machine.
        problem: Why it does not start, or empty.
        remarks: Further notes.
        config: The configuration that the words make; None if they are wrong.
        environment: Variables that the deployment sets and that have an effect here.
    """

    server: str
    where: str
    words: tuple[str, ...]
    models: tuple[Model, ...] = ()
    settings: tuple[Setting, ...] = ()
    files: Mapping[str, bytes] = {}
    problem: str = ""
    remarks: tuple[str, ...] = ()
    config: ServeConfig | None = None
    environment: Mapping[str, str] = {}

    @property
    def runs(self) -> bool:
        """Whether the server starts and all models run."""
        return not self.problem and all(model.verdict != FAILS for model in self.models)

    def words_in(self, folder: str) -> list[str]:
        """Return the command line with the folder that holds the files."""
        return [word.replace(FILES, folder) for word in self.words]

    def command(self, folder: str = ".") -> str:
        """Return the command line as one types it.

        >>> Service("triton", "", ("serve", "--model-repository=a b")).command()
        "salver serve '--model-repository=a b'"
        """
        return shlex.join(["salver", *self.words_in(folder)])


def relevant(environment: Mapping[str, str], more: Container[str] = ()) -> dict[str, str]:
    """Return the variables that have an effect on a server here.

    Args:
        more: Names that files of the deployment use.

    >>> relevant({"TS_JOB_QUEUE_SIZE": "7", "PATH": "/bin"})
    {'TS_JOB_QUEUE_SIZE': '7'}
    """
    return {name: text for name, text in environment.items() if _RELEVANT.match(name) or name in more}


def position_of(started: ServerStart, deployment: Deployment) -> str:
    """Return file and line of a command line."""
    file = started.file.relative_to(deployment.folder)
    if started.launch.line:
        return f"{file}:{started.launch.line}"
    return str(file)


def split_flags(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of each flag: itself and its values."""
    group: list[str] = []
    for word in words:
        if word.startswith("--") and group:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def judge_flags(words: Sequence[str], dialect: CommandLine, where: str) -> tuple[list[Setting], list[str]]:
    """Return the effect of each flag, and the words of the accepted ones."""
    found: list[Setting] = []
    taken: list[str] = []
    for group in split_flags(words):
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


def settings_of_notices(
    server: str, notices: Sequence[str], settings: Sequence[Setting], folder: Path
) -> list[Setting]:
    """Return notices of the log that are not in the settings yet, as settings."""
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


def locate_paths(
    words: Sequence[str],
    named: Sequence[str],
    deployment: Deployment,
    started: ServerStart,
    only: Path | None,
) -> tuple[list[str], list[str]]:
    """Return the words with these flags' paths in the folder, and a text for each path that is not there.

    Args:
        only: The path for the first of the flags where its own is not there; None = none.
    """
    found: list[str] = []
    lost: list[str] = []
    for group in split_flags(words):
        name, equals, value = group[0].partition("=")
        value = value if equals else "".join(group[1:2])
        if name.removeprefix("--") not in named or "://" in value or not value:
            found += group
            continue
        here = deployment.find(value, started.launch, started.file)
        if here is None and name.removeprefix("--") == named[0] and only is not None:
            here = only
        if here is None:
            lost.append(f"{name} {value} is nowhere in {deployment.folder}")
            found += group
        else:
            found += [f"{name}={here}"] + (group[1:] if equals else group[2:])
    return found, lost
