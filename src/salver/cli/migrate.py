"""``salver migrate``: report on another server's deployment, and the command line that replaces it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from salver.terminal.options import Json
from salver.terminal.output import line, record, remark, result, table

if TYPE_CHECKING:
    from salver.migration.models import Model
    from salver.migration.ports import ServerMigration
    from salver.migration.report import Service


def migrate(
    folder: Path,
    /,
    *,
    write: Annotated[
        Path | None,
        Parameter(
            help="Folder to create, with a start script and the files that it needs; or one script, FILE.sh."
        ),
    ] = None,
    verbose: Annotated[bool, Parameter(help="Also list settings that are used as they are.")] = False,
    json: Json = False,
) -> int:
    """Show what of a TorchServe, Triton or TensorFlow Serving deployment runs here, and how to serve it.

    Reads configurations, model stores, repositories, and the command lines in scripts, Dockerfiles, Compose
    and Kubernetes files; runs none of their code and changes nothing in FOLDER. The exit status is 1 if
    something does not run.

    Args:
        folder: Folder of the deployment.
    """
    # Imported here: it looks at every backend and every table of flags.
    from salver.backends.discovery import backends, recogniser
    from salver.migration.deployment import look
    from salver.migration.models import Installation
    from salver.migration.writing import write as write_down
    from salver.parts import formats

    found = backends()
    installed = Installation(found, formats(recogniser(found)))
    servers = _servers()
    deployment = look(folder, [server.recognise for server in servers.values()])
    services = [s for server in servers.values() for s in server.services(deployment, installed)]
    for service in services:
        if json:
            _record(service)
        else:
            _show(service, servers[service.server].title, verbose)
    for text in deployment.unread:
        if json:
            record({"kind": "unread", "text": text})
        else:
            remark(f"not read: {text}")
    if not services:
        if not json:
            titles = ", ".join(server.title for server in servers.values())
            line(f"{folder} holds no deployment of {titles} that is recognised")
        return 1
    if write is not None:
        files = write_down(services, write, deployment.folder, servers, installed)
        for path in files:
            result({"kind": "written", "path": str(path)}, f"wrote {path}", json=json)
        if not json:
            line("checked: what was written is read as the deployment was")
    return int(not all(service.runs for service in services))


def _servers() -> "Mapping[str, ServerMigration]":
    """Return the servers that can be migrated, by name, in the order of the report."""
    from salver.dialects.tensorflow.migration import TensorFlowMigration
    from salver.dialects.torchserve.migration import TorchServeMigration
    from salver.dialects.triton.migration import TritonMigration

    servers: tuple[ServerMigration, ...] = (TorchServeMigration(), TritonMigration(), TensorFlowMigration())
    return {server.name: server for server in servers}


def _show(service: "Service", title: str, verbose: bool) -> None:
    line(f"{title}{service.where and f', started by {service.where}'}")
    if service.models:
        line()
        keys = ("model", "versions", "format", "backend", "verdict", "why")
        table(keys, [_row(model) for model in service.models])
    settings = [s for s in service.settings if verbose or s.becomes != "used"]
    used = len(service.settings) - sum(s.becomes != "used" for s in service.settings)
    if settings:
        line()
        rows = [(s.name, s.value, s.where, s.becomes, s.why) for s in settings]
        table(("setting", "value", "where", "here", "why"), rows)
    if used and not verbose:
        line(f"{'and ' if settings else ''}{used} settings are used as they are (--verbose lists them)")
    line()
    if service.problem:
        line(f"does not start: {service.problem}")
    else:
        line(f"{_sum(service)} Serve them with:")
        line(f"  {service.command()}")
        if service.files:
            line(f"  (needs {', '.join(service.files)}, which --write makes)")
    for text in service.remarks:
        line(f"note: {text}")
    line()


def _row(model: "Model") -> tuple[str, ...]:
    why = ". ".join(text.rstrip(".") for text in (*model.why, model.fix) if text)
    return (model.name, " ".join(model.versions), model.format, model.backend, model.verdict, why)


def _sum(service: "Service") -> str:
    count = [model.verdict for model in service.models]
    parts = [f"{count.count('runs')} of {len(count)} models run as they are"]
    if differing := count.count("runs, with a difference"):
        parts.append(f"{differing} with a difference")
    if failing := count.count("does not run"):
        parts.append(f"{failing} not")
    return ", ".join(parts) + "."


def _record(service: "Service") -> None:
    import msgspec

    for model in service.models:
        record({"kind": "model", **msgspec.structs.asdict(model)})
    for setting in service.settings:
        record({"kind": "setting", **msgspec.structs.asdict(setting)})
    record(
        {
            "kind": "server",
            "server": service.server,
            "where": service.where,
            "command": service.command(),
            "files": sorted(service.files),
            "problem": service.problem,
            "remarks": list(service.remarks),
            "runs": service.runs,
        }
    )
