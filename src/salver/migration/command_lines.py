"""Command lines that start model servers, in shell text, Dockerfiles, and YAML of Compose and Kubernetes.

Pure. Servers are recognised by their programs and images. Nothing is run, and only variables that the same
file sets are expanded. The meaning of the options is not known here.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, Literal

import msgspec

from salver.encoding.lenient import mapping, sequence

ServerName = Literal["torchserve", "triton", "tensorflow-serving"]

_PROGRAMS: Final[Mapping[str, ServerName]] = {
    "torchserve": "torchserve",
    "tritonserver": "triton",
    "tensorflow_model_server": "tensorflow-serving",
}
_IMAGES: Final[tuple[tuple[re.Pattern[str], ServerName], ...]] = (
    (re.compile(r"(?:^|/)torchserve[\w.-]*(?:[:@].*)?$"), "torchserve"),
    (re.compile(r"(?:^|/)tritonserver(?:[:@].*)?$"), "triton"),
    (
        re.compile(r"(?:^|/)tensorflow/serving(?:[:@].*)?$|(?:^|/)tf-serving[\w.-]*(?:[:@].*)?$"),
        "tensorflow-serving",
    ),
)
#: Programs that take a server's name as an argument.
_ABOUT: Final = frozenset([
    "apt", "apt-get", "cat", "chmod", "chown", "conda", "cp", "curl", "dnf", "echo", "export", "grep",
    "kill", "killall", "ln", "ls", "mkdir", "mv", "pip", "pip3", "pkill", "printf", "ps", "rm", "test",
    "touch", "wget", "which", "yum"
])  # fmt: skip
_ENGINES: Final = frozenset({"docker", "podman", "nerdctl"})
_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "zsh"})
_OPERATOR: Final = re.compile(r"[();<>|&]+")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::?[-=]([^}]*))?\}|\$\((\w+)\)|\$(\w+)")
_INSTRUCTION: Final = re.compile(
    r"\s*(FROM|ENV|ARG|COPY|ADD|RUN|CMD|ENTRYPOINT)\s+(.*)", re.IGNORECASE | re.DOTALL
)
_MOST_LAUNCHES: Final = 64
_MOST_DEEP: Final = 40
#: Command lines of images without arguments.
_TORCHSERVE_USUAL: Final = ("--start", "--foreground", "--ts-config", "/home/model-server/config.properties")


class Launch(msgspec.Struct, frozen=True):
    """A command line that starts a server.

    Attributes:
        words: Its arguments, with known variables expanded.
        line: Line in the file, from 1; 0 = unknown.
        environment: Variables that the same file sets.
        mounts: Paths on the host, by path in the container.
    """

    server: ServerName
    words: tuple[str, ...]
    line: int = 0
    environment: Mapping[str, str] = {}
    mounts: Mapping[str, str] = {}


def of_shell(text: str) -> tuple[Launch, ...]:
    """Return the command lines in a shell script, a systemd unit or the like.

    >>> [launch.words for launch in of_shell("nohup tritonserver --model-repository=/m > log &")]
    [('--model-repository=/m',)]
    """
    found: list[Launch] = []
    environment: dict[str, str] = {}
    for number, line in _logical(text):
        words = _split(line.removeprefix("ExecStart="))
        for segment in _segments(words):
            environment |= _assignments(segment, environment)
            found += _of_segment(segment, environment, number)
    return tuple(found[:_MOST_LAUNCHES])


def of_dockerfile(text: str) -> tuple[Launch, ...]:
    """Return the command lines that a container of this Dockerfile runs."""
    environment: dict[str, str] = {}
    mounts: dict[str, str] = {}
    entry: list[str] = []
    command: list[str] = []
    image, line = "", 0
    for number, logical in _logical(text):
        told = _INSTRUCTION.fullmatch(logical)
        if told is None:
            continue
        match told[1].upper():
            case "FROM":
                image, entry, command = _first(told[2]), [], []
                mounts.clear()
            case "ENV" | "ARG":
                environment |= _variables(told[2])
            case "COPY" | "ADD":
                mounts |= _copied(told[2])
            case "ENTRYPOINT":
                entry, line = _exec_form(told[2]), number
            case "CMD":
                command, line = _exec_form(told[2]), number
    launch = _of_container(image, entry, command, environment, mounts)
    return tuple(msgspec.structs.replace(each, line=line) for each in launch)


def of_yaml(documents: Iterable[Any], text: str = "") -> tuple[Launch, ...]:
    """Return the command lines of containers in Compose and Kubernetes files.

    Args:
        documents: Documents of a safe reader; shared parts are visited once.
        text: The file, for line numbers.
    """
    found: list[Launch] = []
    seen: set[int] = set()
    for document in documents:
        for container, volumes in _containers(document, {}, seen, 0):
            launches = _of_mapping(container, volumes)
            found += [
                msgspec.structs.replace(each, line=_line_of(each, container, text)) for each in launches
            ]
    return tuple(found[:_MOST_LAUNCHES])


def filled(word: str, environment: Mapping[str, str]) -> str:
    """Return a text with known variables expanded; the working directory is ``.``.

    >>> filled("$PWD/${NAME:-m}/$(X)", {"X": "1"})
    './m/1'
    """
    known = {"PWD": ".", **environment}

    def meant(match: re.Match[str]) -> str:
        name = match[1] or match[3] or match[4]
        return known.get(name, match[2] if match[2] is not None else match[0])

    return _VARIABLE.sub(meant, word.replace("$(pwd)", "."))


# Shell.


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines joined with their continuations, and the number of the first."""
    begun, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not begun and line.lstrip().startswith("#"):
            continue
        start = start if begun else number
        if line.rstrip().endswith("\\"):
            begun += line.rstrip()[:-1] + " "
            continue
        if begun or line.strip():
            yield start, begun + line
        begun = ""
    if begun:
        yield start, begun


def _split(line: str) -> list[str]:
    """Tokenise a shell command; return nothing if it is not one."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return []


def _segments(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield simple commands, without redirections."""
    segment: list[str] = []
    skips = False
    for word in words:
        if not _OPERATOR.fullmatch(word):
            if not skips:
                segment.append(word)
            skips = False
            continue
        skips = "<" in word or ">" in word
        if skips and segment and segment[-1] in ("1", "2"):
            segment.pop()
        if not skips:
            yield segment
            segment = []
    yield segment


def _assignments(segment: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in segment[1:] if segment[:1] == ["export"] else segment:
        told = _ASSIGNMENT.fullmatch(word)
        if told is None:
            break
        found[told[1]] = filled(told[2], {**environment, **found})
    return found


def _of_segment(
    segment: list[str], environment: Mapping[str, str], line: int, deep: int = 0
) -> Iterator[Launch]:
    if not segment or PurePosixPath(segment[0]).name in _ABOUT or deep > 2:
        return
    engine = next((i for i, word in enumerate(segment[:3]) if PurePosixPath(word).name in _ENGINES), None)
    if engine is not None:
        if "run" in segment[engine + 1 : engine + 3]:
            yield from _of_docker_run(segment, environment, line)
        return
    for index, word in enumerate(segment):
        if server := _program(word, segment[index - 1] if index else ""):
            words = [filled(each, environment) for each in segment[index + 1 :]]
            yield Launch(server, tuple(words), line, dict(environment))
            return
        if any(character.isspace() for character in word):  # bash -c "…"
            for inner in _segments(_split(word)):
                yield from _of_segment(inner, environment, line, deep + 1)


def _program(word: str, before: str = "") -> ServerName | None:
    name = PurePosixPath(word).name
    if name == "main.py" and "openai" in word:  # Triton's OpenAI front end
        return "triton"
    if before in ("-m", "--name", "-f"):
        return None
    return _PROGRAMS.get(name)


#: Options of ``docker run`` with a value.
_WITH_WORD: Final = frozenset([
    "-v", "--volume", "--mount", "-e", "--env", "-p", "--publish", "--name", "--gpus", "--shm-size",
    "--network", "--net", "-w", "--workdir", "-u", "--user", "--memory", "-m", "--cpus", "--restart",
    "--ulimit", "--env-file", "--ipc", "--entrypoint", "--hostname", "-h", "--label", "-l", "--runtime",
    "--add-host", "--device", "--cap-add", "--security-opt", "--platform", "--pull", "--log-driver",
    "--log-opt"
])  # fmt: skip


def _of_docker_run(segment: list[str], environment: Mapping[str, str], line: int) -> Iterator[Launch]:
    told: dict[str, str] = dict(environment)
    mounts: dict[str, str] = {}
    entry: list[str] = []
    left = segment[segment.index("run") + 1 :]
    while left and left[0].startswith("-"):
        name, equals, value = left.pop(0).partition("=")
        if not equals and name in _WITH_WORD:
            value = left.pop(0) if left else ""
        match name:
            case "-v" | "--volume":
                mounts |= _bound(filled(value, environment))
            case "--mount":
                mounts |= _mounted(filled(value, environment))
            case "-e" | "--env":
                told |= _variables(filled(value, environment))
            case "--entrypoint":
                entry = [value]
    if left:
        image, *command = left
        for launch in _of_container(image, entry, command, told, mounts):
            yield msgspec.structs.replace(launch, line=line)


def _bound(told: str) -> dict[str, str]:
    """Return the mount in ``SOURCE:TARGET[:ro]``."""
    parts = told.split(":")
    if len(parts) >= 2 and parts[1].startswith("/"):
        return {parts[1]: parts[0]}
    return {}


def _mounted(told: str) -> dict[str, str]:
    """Return the mount in ``type=bind,source=S,target=T``."""
    keys = dict(part.partition("=")[::2] for part in told.split(","))
    source = keys.get("source") or keys.get("src")
    target = keys.get("target") or keys.get("dst") or keys.get("destination")
    if source and target:
        return {target: source}
    return {}


# Dockerfiles.


def _first(text: str) -> str:
    words = [word for word in text.split() if not word.startswith("--")]
    return words[0] if words else ""


def _variables(text: str) -> dict[str, str]:
    """Return the variables in ``A=1 B=2`` or ``A 1``."""
    words = _split(text)
    pairs = [told.groups() for word in words if (told := _ASSIGNMENT.fullmatch(word))]
    if pairs:
        return {str(name): str(value) for name, value in pairs}
    name, _, value = text.strip().partition(" ")
    return {name: value.strip()} if value else {}


def _copied(text: str) -> dict[str, str]:
    words = _listed(text) or [word for word in text.split() if not word.startswith("--")]
    if len(words) < 2 or "--from" in text:
        return {}
    *sources, target = words
    if len(sources) == 1 and not target.endswith("/"):
        return {target: sources[0]}
    base = target.rstrip("/")
    found = {f"{base}/{PurePosixPath(source).name}": source for source in sources}
    if len(sources) == 1:  # the content of a folder is copied
        found[base] = sources[0]
    return found


def _listed(text: str) -> list[str]:
    """Return the words of a JSON list of strings; None for other texts."""
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return []
    is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return words if is_list else []


def _exec_form(text: str) -> list[str]:
    return _listed(text) or ["sh", "-c", text]


# Containers.


def _of_container(
    image: str,
    entry: Sequence[str],
    command: Sequence[str],
    environment: Mapping[str, str],
    mounts: Mapping[str, str],
) -> Iterator[Launch]:
    words = [*entry, *command]
    made = _server_of(image)
    if words and PurePosixPath(words[0]).name in _SHELLS:
        texts = [word for word in words[1:] if not word.startswith("-")]
        segments = [inner for text in texts[:1] for inner in _segments(_split(text))]
    else:
        segments = [words]
    found = [launch for segment in segments for launch in _of_segment(segment, environment, 0)]
    if not found and made and not any(_program(word) for word in words):
        found = [Launch(made, _usual(made, words, environment), 0, dict(environment))]
        if made == "triton":  # its image starts no server by itself
            found = []
    for launch in found:
        filled_in = tuple(filled(word, environment) for word in launch.words)
        yield msgspec.structs.replace(launch, words=filled_in, mounts=dict(mounts))


def _server_of(image: str) -> ServerName | None:
    return next((server for pattern, server in _IMAGES if pattern.search(image)), None)


def _usual(server: ServerName, words: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the command line of an image with these arguments."""
    if server == "torchserve":
        return _TORCHSERVE_USUAL
    flags = [word for word in words if word.startswith("-")]
    if any(word.startswith(("--model_config_file", "--model_base_path")) for word in flags):
        return tuple(words)
    name = environment.get("MODEL_NAME", "model")
    base = environment.get("MODEL_BASE_PATH", "/models").rstrip("/")
    return (f"--model_name={name}", f"--model_base_path={base}/{name}", *words)


def _containers(
    value: Any, volumes: Mapping[str, str], seen: set[int], deep: int
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, str]]]:
    """Yield the mappings that describe containers, with the host folders of their volumes."""
    if not isinstance(value, dict | list) or id(value) in seen or deep > _MOST_DEEP:
        return
    seen.add(id(value))
    if isinstance(value, list):
        for each in value:
            yield from _containers(each, volumes, seen, deep + 1)
        return
    if isinstance(value.get("containers"), list) and isinstance(value.get("volumes"), list):
        volumes = {**volumes, **_host_paths(value["volumes"])}
    if any(key in value for key in ("image", "command", "args", "entrypoint")):
        yield value, volumes
    for each in value.values():
        yield from _containers(each, volumes, seen, deep + 1)


def _host_paths(volumes: Sequence[Any]) -> dict[str, str]:
    found = {}
    for volume in volumes:
        path = mapping(volume).get("hostPath")
        if isinstance(path, dict) and isinstance(path.get("path"), str):
            found[str(volume.get("name"))] = path["path"]
    return found


def _of_mapping(container: Mapping[str, Any], volumes: Mapping[str, str]) -> Iterator[Launch]:
    environment = _environment(container.get("environment")) | _environment(container.get("env"))
    if "entrypoint" in container or "args" not in container:
        entry, command = _words(container.get("entrypoint")), _words(container.get("command"))
    else:  # Kubernetes
        entry, command = _words(container.get("command")), _words(container.get("args"))
    mounts = _compose_mounts(container.get("volumes"), environment)
    told = container.get("volumeMounts")
    for mount in sequence(told):
        if isinstance(mount, dict) and str(mount.get("name")) in volumes:
            mounts[str(mount.get("mountPath"))] = volumes[str(mount.get("name"))]
    yield from _of_container(str(container.get("image") or ""), entry, command, environment, mounts)


def _words(told: Any) -> list[str]:
    if isinstance(told, str):
        if not _OPERATOR.search(told):
            return _split(told)
        return ["sh", "-c", told]
    if isinstance(told, list):
        return [str(word) for word in told]
    return []


def _environment(told: Any) -> dict[str, str]:
    if isinstance(told, dict):
        return {str(name): str(value) for name, value in told.items()}
    found: dict[str, str] = {}
    for each in sequence(told):
        if isinstance(each, str):
            found |= _variables(each) if "=" in each else {}
        elif isinstance(each, dict) and "name" in each and "value" in each:
            found[str(each["name"])] = str(each["value"])
    return found


def _compose_mounts(told: Any, environment: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in sequence(told):
        if isinstance(each, str):
            found |= _bound(filled(each, environment))
        elif isinstance(each, dict) and each.get("source") and each.get("target"):
            found[str(each["target"])] = str(each["source"])
    return found


def _line_of(launch: Launch, container: Mapping[str, Any], text: str) -> int:
    """Return the line of an image or of one of its arguments."""
    for word in (str(container.get("image") or ""), *launch.words):
        for number, line in enumerate(text.splitlines(), 1):
            if word and word in line:
                return number
    return 0
