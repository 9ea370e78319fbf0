"""Whether the models of a deployment run here, and if not, why.

Judged by the repository, the backends' recognisers, and the packages that are installed. Programs are read
and never run.
"""

import ast
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from salver.backends.installed import is_installed
from salver.backends.protocol import Backend
from salver.kernel.repository import Formats
from salver.words.artifacts import Manifest

Verdict = Literal["runs", "runs, with a difference", "does not run"]
RUNS: Final[Verdict] = "runs"
DIFFERS: Final[Verdict] = "runs, with a difference"
FAILS: Final[Verdict] = "does not run"

_MOST_SOURCE: Final = 1 << 20
#: Modules that servers provide to their models' programs.
_GIVEN: Final = frozenset({"triton_python_backend_utils", "c_python_backend_utils", "ts"})


class Installation(msgspec.Struct, frozen=True):
    """Backends and formats of this machine."""

    backends: Mapping[str, Backend]
    formats: Formats


class Model(msgspec.Struct, frozen=True):
    """Versions of a model with the same verdict.

    Attributes:
        path: Path of the newest version.
        verdict: Whether it runs on this machine as it is now.
        why: Differences, or reasons why it does not run.
        fix: What to do; may be empty.
    """

    server: str
    name: str
    versions: tuple[str, ...]
    path: str
    format: str
    backend: str
    is_installed: bool
    verdict: Verdict
    why: tuple[str, ...] = ()
    fix: str = ""


def judge_models(
    server: str,
    manifests: Iterable[Manifest],
    backends: Mapping[str, Backend],
    *,
    trusts_pickle: bool = False,
) -> tuple[Model, ...]:
    """Return each model, once for each verdict on its versions."""
    each = [_judge(server, manifest, backends, trusts_pickle) for manifest in manifests]

    def kind(model: Model) -> tuple[str, str, str, str, tuple[str, ...]]:
        return model.name, model.format, model.backend, model.verdict, model.why

    groups = (tuple(group) for _, group in itertools.groupby(sorted(each, key=kind), kind))
    return tuple(
        msgspec.structs.replace(group[-1], versions=tuple(sorted(_versions(group), key=_in_order)))
        for group in groups
    )


def _versions(group: Iterable[Model]) -> Iterator[str]:
    for model in group:
        yield from model.versions


def _in_order(version: str) -> tuple[int, str]:
    return (int(version) if version.isdecimal() else 0), version


def missing_packages(sources: Sequence[bytes], beside: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the packages that programs import and that are not installed.

    Args:
        beside: Modules beside the programs.

    >>> missing_packages([b"import json, no_such_package.part"])
    ('no_such_package',)
    """
    there = _GIVEN | frozenset(beside)
    found = {name for source in sources for name in _imports(source)} - there
    return tuple(sorted(name for name in found if not is_installed(name)))


def missing_text(names: Sequence[str]) -> tuple[str, str]:
    """Return the reason and the remedy for missing packages."""
    told, install = ", ".join(names), f"pip install {' '.join(names)}"
    if len(names) == 1:
        return f"its program imports {told}, which is not installed here", f"Install it: {install}"
    return f"its program imports {told}, which are not installed here", f"Install them: {install}"


def _judge(server: str, manifest: Manifest, backends: Mapping[str, Backend], trusts_pickle: bool) -> Model:
    backend = backends.get(manifest.backend)
    missing = [name for name in (backend.modules if backend else ()) if not is_installed(name)]
    why: tuple[str, ...] = manifest.notices
    verdict: Verdict = DIFFERS if why else RUNS
    fix = ""
    if manifest.problem:
        verdict, why = FAILS, (manifest.problem,)
    elif backend is not None and missing:
        verdict, why = FAILS, (f"the {backend.name} backend needs {', '.join(missing)}, not installed here",)
        fix = f"pip install 'salver[{backend.extra}]'"
    elif names := missing_packages(*_programs(manifest)):
        told, fix = missing_text(names)
        verdict, why = FAILS, (told,)
    elif manifest.format == "pickle" and not trusts_pickle:
        verdict, why = DIFFERS, (*why, "loading a pickle runs any code that is in it, so it must be allowed")
        fix = "Add --trust-pickle if you trust who made it."
    return Model(
        server,
        manifest.id.name,
        (manifest.id.version,),
        str(manifest.path),
        manifest.format or "ensemble" if manifest.config.ensemble.steps else manifest.format,
        manifest.backend,
        not missing,
        verdict,
        why,
        fix,
    )


def _programs(manifest: Manifest) -> tuple[list[bytes], list[str]]:
    """Return the programs of a model and the modules beside them."""
    if manifest.backend != "python":
        return [], []
    path = manifest.path
    if manifest.path.suffix != ".py":
        path = manifest.path / "model.py"
    try:
        with path.open("rb") as file:
            source = file.read(_MOST_SOURCE)
        return [source], [entry.stem for entry in path.parent.iterdir()]
    except OSError:
        return [], []


def _imports(source: bytes) -> Iterator[str]:
    """Yield the packages that a program imports at its top level, outside of ``try``."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
