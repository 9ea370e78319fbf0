"""``salver registry``: list and push models, name their versions, and show changes."""

from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from salver.features.registry import access_command as registry_access
from salver.features.registry import push_command as registry_push
from salver.features.registry import upkeep_command as registry_keeping
from salver.features.registry.command_options import USUAL, RegistryOptions, Why, numbers_of, pairs_of, run
from salver.terminal.options import Json
from salver.terminal.output import line, listed, moment, printable, record
from salver.words.errors import InvalidInput

if TYPE_CHECKING:
    from salver.features.registry.records import Actor, Difference, Entry, Model, Version
    from salver.features.registry.registry import ModelRegistry

registry = App(
    name="registry",
    help="Versioned models with aliases and a history.",
    default_parameter=Parameter(negative=()),
)
registry.command(registry_push.push)
registry.command(registry_access.token)
registry.command(registry_access.webhook)
for _command in (
    registry_keeping.verify,
    registry_keeping.sweep,
    registry_keeping.remove,
    registry_keeping.backup,
    registry_keeping.restore,
):
    registry.command(_command)
_COLUMNS: Final = (
    "version",
    "aliases",
    "framework",
    "digest",
    "size",
    "pushed",
    "by",
    "metrics",
    "tags",
)
#: Columns that are hidden on a narrow terminal, in that order.
_NEEDLESS: Final = ("digest", "by", "framework", "size", "tags", "metrics")
_WIDE: Final = 60  # width of each side of a difference in a table


@registry.command(name="list")
def list_models(
    name: str = "",
    /,
    *,
    limit: Annotated[int, Parameter(help="Maximum number of versions, newest first.")] = 100,
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """List the models, or the versions of one.

    Args:
        name: Name of a model.
    """
    if name:
        versions = run(where, lambda registry, _: registry.versions(name, most=max(limit, 1)))
        listed(versions, _COLUMNS, _version, json=json, needless=_NEEDLESS)
        return 0

    def row(m: "Model") -> list[str]:
        aliases = {
            name: f"{number} (default)" if name == m.default_alias else number
            for name, number in m.aliases.items()
        }
        return [m.name, str(m.latest or ""), str(m.versions), _pairs(aliases)]

    models = run(where, lambda registry, _: registry.models())
    columns = ("model", "latest", "versions", "aliases")
    listed(models, columns, row, json=json, none="the registry is empty")
    return 0


def _version(version: "Version") -> list[str]:
    return [
        str(version.number),
        ", ".join(version.aliases),
        version.description.framework,
        _digest(version.digest),
        _size(version.size),
        moment(version.created),
        version.by,
        _pairs(version.metrics),
        _pairs(version.tags),
    ]


@registry.command
def show(reference: str, /, *, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """Show the details of a version.

    Args:
        reference: NAME, NAME@ALIAS or NAME/VERSION.
    """
    from salver.features.registry.names import parse

    said = parse(reference)
    version = run(where, lambda registry, _: registry.version(said))
    if json:
        record(version)
        return 0
    what = version.description
    facts: list[tuple[str, str]] = [
        ("digest", version.digest),
        ("aliases", ", ".join(version.aliases)),
        ("framework", f"{what.framework} ({what.format})"),
        *(
            (side[:-1], _tensor(each))
            for side in ("inputs", "outputs")
            for each in what.signature.get(side, ())
        ),
        *(("file", f"{file.path}  {_size(file.size)}  {_digest(file.sha256)}") for file in version.files),
        (
            "pushed",
            f"{moment(version.created)} by {version.by}" + (f": {version.why}" if version.why else ""),
        ),
        ("source", version.source),
        *((parent.kind, parent.reference) for parent in version.parents),
        ("metrics", _pairs(version.metrics)),
        ("tags", _pairs(version.tags)),
        ("measured", _pairs(what.performance)),
        ("card", _pairs(version.front_matter)),
    ]
    line(f"{version.model}/{version.number}")
    for name, text in facts:
        if text:
            line(f"  {name:<10}{printable(text)}")
    if version.card:
        line()
        for text in version.card.rstrip().splitlines():
            line(printable(text.expandtabs()))
    return 0


@registry.command
def alias(
    name: str,
    version: str = "",
    /,
    *,
    delete: Annotated[bool, Parameter(help="Delete the alias.")] = False,
    default: Annotated[
        bool, Parameter(help="Use it for requests that name no version, instead of champion.")
    ] = False,
    why: Why = "",
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Point an alias to a version: immediately or, if the model has a rollout policy, by a release.

    Args:
        name: NAME@ALIAS.
        version: Number of a version, or latest.
    """
    from salver.features.registry.names import Reference, parse

    said = parse(name)
    fix = "Say: NAME@ALIAS VERSION, NAME@ALIAS --delete, or NAME@ALIAS --default."
    if not said.alias:
        raise InvalidInput(f"{name} does not name an alias", fix=fix)
    if bool(version) + delete + default != 1:
        raise InvalidInput(f"what shall become of {name} is not said, or more than one thing", fix=fix)

    async def work(registry: "ModelRegistry", actor: "Actor") -> dict[str, Any]:
        if delete:
            await registry.delete_alias(said.model, said.alias, actor, why)
            return {"model": said.model, "alias": said.alias, "done": "deleted"}
        if default:
            await registry.set_default(said.model, said.alias, actor, why)
            return {"model": said.model, "alias": said.alias, "done": "is the default"}
        target = Reference(said.model) if version == "latest" else parse(f"{said.model}/{version}")
        number = (await registry.version(target)).number
        move = await registry.set_alias(said.model, said.alias, number, actor, why)
        told = "is proposed to mean" if move.release else "means"
        return {
            "model": said.model,
            "alias": said.alias,
            "number": number,
            "before": move.before,
            "release": move.release,
            "done": f"{told} {said.model}/{number}" + (f", release {move.release}" if move.release else ""),
        }

    done = run(where, work)
    record(done) if json else line(f"{said.model}@{said.alias} {done['done']}")
    return 0


@registry.command
def history(
    name: str = "",
    /,
    *,
    limit: Annotated[int, Parameter(help="Maximum number of lines, newest first.")] = 50,
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Show who changed what, when and why, the newest first.

    Args:
        name: Name of a model (default: all).
    """
    entries = run(where, lambda registry, _: registry.history(name, most=limit))

    def row(e: "Entry") -> list[str]:
        of = f"{e.model} {e.subject}".strip()
        after = _digest(e.after) if e.action == "version.pushed" else e.after
        return [cell[:_WIDE] for cell in (moment(e.time), e.actor, e.action, of, e.before, after, e.why)]

    columns = ("when", "who", "what", "of", "from", "to", "why")
    none = f"nothing was ever changed of {name}" if name else "nothing was ever changed"
    listed(entries, columns, row, json=json, none=none, needless=("from", "who"))
    return 0


@registry.command
def diff(before: str, after: str, /, *, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """Show the differences between two versions.

    Args:
        before: NAME, NAME@ALIAS or NAME/VERSION.
        after: NAME, NAME@ALIAS or NAME/VERSION.
    """
    from salver.features.registry.names import parse

    one, two = parse(before), parse(after)
    found = run(where, lambda registry, _: registry.diff(one, two))

    def row(d: "Difference") -> list[str]:
        return [_first(cell) for cell in (d.part, d.what, d.before or "-", d.after or "-")]

    columns = ("part", "what", before, after)
    listed(found, columns, row, json=json, none=f"{before} and {after} are the same model")
    return 0


@registry.command
def tag(
    reference: str,
    /,
    *pairs: str,
    remove: Annotated[tuple[str, ...], Parameter(help="Key to remove, repeatable.")] = (),
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Set tags of a version, such as team=risk.

    Args:
        reference: NAME, NAME@ALIAS or NAME/VERSION.
        pairs: KEY=VALUE.
    """
    from salver.features.registry.names import parse

    said = parse(reference)
    wanted: dict[str, str | None] = {**pairs_of(pairs, "tag"), **dict.fromkeys(remove)}

    async def work(registry: "ModelRegistry", actor: "Actor") -> "Version":
        for key, value in wanted.items():
            await registry.tag(said, key, value, actor)
        return await registry.version(said)

    version = run(where, work)
    record(version) if json else line(f"{version.model}/{version.number} {_pairs(version.tags)}".rstrip())
    return 0


@registry.command
def metric(reference: str, /, *pairs: str, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """Set metrics of a version that were measured after it was pushed, such as auc=.93.

    Args:
        reference: NAME, NAME@ALIAS or NAME/VERSION.
        pairs: NAME=NUMBER.
    """
    from salver.features.registry.names import parse

    said, wanted = parse(reference), numbers_of(pairs, "metric")

    async def work(registry: "ModelRegistry", actor: "Actor") -> "Version":
        await registry.measure(said, wanted, actor)
        return await registry.version(said)

    version = run(where, work)
    record(version) if json else line(f"{version.model}/{version.number} {_pairs(version.metrics)}".rstrip())
    return 0


@registry.command
def protect(
    name: str,
    /,
    *,
    role: Annotated[
        tuple[str, ...], Parameter(help="Role that may move it, repeatable (default: no restriction).")
    ] = (),
    why: Why = "",
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Restrict moves of an alias to tokens with a role.

    Args:
        name: NAME@ALIAS.
    """
    from salver.features.registry.names import parse

    said = parse(name)
    if not said.alias:
        raise InvalidInput(f"{name} does not name an alias", fix="Say: NAME@ALIAS.")
    run(where, lambda registry, actor: registry.protect(said.model, said.alias, role, actor, why))
    told = f"{name} " + (f"is moved by {', '.join(role)}" if role else "may be moved by everybody")
    record({"model": said.model, "alias": said.alias, "roles": role}) if json else line(told)
    return 0


def _digest(sha256: str) -> str:
    """Shorten a digest to a distinctive prefix."""
    return sha256.removeprefix("sha256:")[:12]


def _size(count: int) -> str:
    for unit, width in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << width:
            return f"{count / (1 << width):.1f} {unit}"
    return f"{count} B"


def _pairs(values: Any) -> str:
    return ", ".join(f"{key}={_first(str(value))}" for key, value in values.items())


def _tensor(spec: Any) -> str:
    return f"{spec['name']} {spec['datatype']}{list(spec['shape'])}"


def _first(text: str) -> str:
    """Return the text of a table cell."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"
