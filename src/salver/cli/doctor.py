"""``salver doctor``: report on the installation, the machine and models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from salver.terminal.options import Json
from salver.terminal.output import line, record, table

if TYPE_CHECKING:
    from salver.words.artifacts import Manifest


def doctor(
    path: str = "",
    /,
    *,
    trust_pickle: Annotated[
        bool, Parameter(help="Allow models whose loading runs code, as in salver serve.")
    ] = False,
    timeout: Annotated[float, Parameter(help="Time limit for loading one model, in seconds.")] = 120.0,
    json: Json = False,
) -> int:
    """Show what is installed and what this machine can do; with PATH, why a model does not load.

    Each model is loaded in a process of its own and unloaded again. The exit status is 1 if a model does not
    load.

    Args:
        path: Model file, folder or repository, as for salver serve.
    """
    # Imported here: looking at every installed package would slow --help.
    from salver.backends.discovery import backends
    from salver.cli.machine import findings, frameworks
    from salver.kernel.repository.advice import unrecognised_folder

    known = backends()
    if path:
        checks = [_check(manifest, trust_pickle, timeout) for manifest in _found(path)]
        for check in checks:
            if json:
                record(check)
            else:
                _show(check)
        if not checks and not json:
            names = [child.name for child in Path(path).iterdir()]
            line(unrecognised_folder(Path(path), names))
        return int(not checks or any(check.problem for check in checks))
    machine, installed = findings(), frameworks(known)
    if json:
        record({"machine": machine, "backends": installed})
        return 0
    table(("machine", "", ""), [[f.what, f.value, f.hint] for f in machine])
    line()
    rows = [
        [
            f.backend,
            f.state,
            ", ".join(f.harmless_formats) or "none",
            ", ".join(map(" ".join, f.versions.items())),
            f.fix,
        ]
        for f in installed
    ]
    table(("backend", "state", "formats by request", "found", "to install"), rows)
    return 0


class LoadCheck(msgspec.Struct, frozen=True):
    """Result of loading one version.

    Attributes:
        inputs, outputs: As ``name DATATYPE[shape]``.
        problem: Why it does not load, or empty.
        notices: Settings that have no effect yet.
    """

    model: str
    version: str
    path: str
    format: str
    backend: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    problem: str = ""
    notices: tuple[str, ...] = ()


def _found(path: str) -> "tuple[Manifest, ...]":
    from salver.backends.discovery import backends, recogniser
    from salver.kernel.repository import Repository
    from salver.parts import formats

    return Repository((path,), formats(recogniser(backends()))).scan(0.0)


def _check(manifest: "Manifest", trust_pickle: bool, timeout: float) -> LoadCheck:
    from salver.backends.trial import try_load
    from salver.words.errors import SalverError

    check = LoadCheck(
        manifest.id.name,
        manifest.id.version,
        str(manifest.path),
        manifest.format,
        manifest.backend,
        problem=manifest.problem,
        notices=manifest.notices,
    )
    if check.problem:
        return check
    if manifest.config.ensemble.steps:
        models = ", ".join(dict.fromkeys(name for name, _ in manifest.config.ensemble.models))
        notice = f"an ensemble of {models}: salver serve checks whether they fit together"
        return msgspec.structs.replace(check, notices=(*check.notices, notice))
    if manifest.config.environment.path:
        notice = "it has a Python environment of its own: salver serve makes it, and checks the model in it"
        return msgspec.structs.replace(check, notices=(*check.notices, notice))
    try:
        signature = try_load(manifest, trust_pickle=trust_pickle, timeout=timeout)
    except SalverError as error:
        return msgspec.structs.replace(check, problem=str(error))
    inputs, outputs = (
        tuple(f"{spec.name} {spec.datatype.name}{list(spec.shape)}" for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return msgspec.structs.replace(check, inputs=inputs, outputs=outputs)


def _show(check: LoadCheck) -> None:
    state = "loads"
    if check.problem:
        state = "does not load"
    line(f"{check.model}:{check.version} {state}")
    facts = [
        ("file", check.path),
        ("format", f"{check.format} (backend {check.backend})" if check.format else "not recognised"),
        *(("input", text) for text in check.inputs),
        *(("output", text) for text in check.outputs),
        *(("notice", text) for text in check.notices),
        *((("reason", check.problem),) if check.problem else ()),
    ]
    for what, text in facts:
        line(f"  {what:<8}{text}")
