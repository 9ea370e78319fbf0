"""``salver registry``: list and push models, name their versions, and show changes."""

from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from salver.encoding.escaping import printable
from salver.features.registry import access_command as registry_access
from salver.features.registry import push_command as registry_push
from salver.features.registry import servers_command as registry_servers
from salver.features.registry import upkeep_command as registry_keeping
from salver.features.registry.command_options import USUAL, RegistryOptions, Why, numbers_of, pairs_of, run
from salver.features.registry.names import Reference, parse
from salver.terminal.options import Json
from salver.terminal.output import line, listed, moment, record, result
from salver.words.errors import InvalidInput
from salver.words.sizes import told_bytes

if TYPE_CHECKING:
    from salver.features.registry.records import Difference, Entry, Model, Version

registry = App(
    name="registry",
    help="Versioned models with aliases and a history.",
    default_parameter=Parameter(negative=()),
)
registry.command(registry_push.push)
registry.command(registry_access.token)
registry.command(registry_access.webhook)
registry.command(registry_servers.servers)
for _command in (
    registry_keeping.verify,
    registry_keeping.copy,
    registry_keeping.sweep,
    registry_keeping.remove,
):
    registry.command(_command)
_COLUMNS: Final = ("version", "aliases", "framework", "digest", "size", "pushed", "by", "metrics", "tags")
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
) -> None:
    """List the models, or the versions of one.

    Args:
        name: Name of a model.
    """
    if name:
        versions = run(where, lambda registry, _: registry.versions(name, most=max(limit, 1)))
        listed(versions, _COLUMNS, _version, json=json, needless=_NEEDLESS)
        return

    def row(m: "Model") -> list[str]:
        aliases: dict[str, object] = dict(m.aliases)
        if m.default_alias in aliases:
            aliases[m.default_alias] = f"{aliases[m.default_alias]} (default)"
        return [m.name, str(m.latest or ""), str(m.versions), _pairs(aliases)]

    models = run(where, lambda registry, _: registry.models())
    columns = ("model", "latest", "versions", "aliases")
    listed(models, columns, row, json=json, none="the registry is empty")


def _version(version: "Version") -> list[str]:
    return [
        str(version.number),
        ", ".join(version.aliases),
        version.description.framework,
        _digest(version.digest),
        told_bytes(version.size),
        moment(version.created),
        version.by,
        _pairs(version.metrics),
        _pairs(version.tags),
    ]


@registry.command
def show(reference: str, /, *, where: RegistryOptions = USUAL, json: Json = False) -> None:
    """Show the details of a version.

    Args:
        reference: NAME, NAME@ALIAS or NAME/VERSION.
    """
    said = parse(reference)
    version = run(where, lambda registry, _: registry.version(said))
    if json:
        record(version)
        return
    what = version.description
    facts: list[tuple[str, str]] = [
        ("digest", version.digest),
        ("aliases", ", ".join(version.aliases)),
        ("framework", f"{what.framework} ({what.format})"),
        *(
            (side[:-1], f"{each['name']} {each['datatype']}{list(each['shape'])}")
            for side in ("inputs", "outputs")
            for each in what.signature.get(side, ())
        ),
        *(
            ("file", f"{file.path}  {told_bytes(file.size)}  {_digest(file.sha256)}")
            for file in version.files
        ),
        ("pushed", f"{moment(version.created)} by {version.by}{version.why and f': {version.why}'}"),
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
) -> None:
    """Point an alias to a version: immediately or, if the model has a rollout policy, by a release.

    Args:
        name: NAME@ALIAS.
        version: Number of a version, or latest.
    """
    said = parse(name)
    fix = "Say: NAME@ALIAS VERSION, NAME@ALIAS --delete, or NAME@ALIAS --default."
    if not said.alias:
        raise InvalidInput(f"{name} does not name an alias", fix=fix)
    if bool(version) + delete + default != 1:
        raise InvalidInput(f"give exactly one change for {name}", fix=fix)

    model, alias = said.model, said.alias
    facts: dict[str, Any] = {"model": model, "alias": alias}
    if delete:
        run(where, lambda registry, actor: registry.delete_alias(model, alias, actor, why))
        facts["done"] = "deleted"
    elif default:
        run(where, lambda registry, actor: registry.set_default(model, alias, actor, why))
        facts["done"] = "is the default"
    else:
        target = Reference(model)
        if version != "latest":
            target = parse(f"{model}/{version}")
        number = target.number or run(where, lambda registry, _: registry.version(target)).number
        move = run(where, lambda registry, actor: registry.set_alias(model, alias, number, actor, why))
        told = f"means {model}/{number}"
        if move.release:
            told = f"is proposed to mean {model}/{number}, release {move.release}"
        facts |= {"number": number, "before": move.before, "release": move.release, "done": told}
    result(facts, f"{model}@{alias} {facts['done']}", json=json)


@registry.command
def history(
    name: str = "",
    /,
    *,
    limit: Annotated[int, Parameter(help="Maximum number of lines, newest first.")] = 50,
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> None:
    """Show who changed what, when and why, the newest first.

    Args:
        name: Name of a model (default: all).
    """
    entries = run(where, lambda registry, _: registry.history(name, most=limit))

    def row(e: "Entry") -> list[str]:
        of = f"{e.model} {e.subject}".strip()
        after = e.after
        if e.action == "version.pushed":
            after = _digest(e.after)
        return [cell[:_WIDE] for cell in (moment(e.time), e.actor, e.action, of, e.before, after, e.why)]

    columns = ("when", "who", "what", "of", "from", "to", "why")
    none = f"nothing was ever changed{name and f' of {name}'}"
    listed(entries, columns, row, json=json, none=none, needless=("from", "who"))


@registry.command
def diff(before: str, after: str, /, *, where: RegistryOptions = USUAL, json: Json = False) -> None:
    """Show the differences between two versions.

    Args:
        before: NAME, NAME@ALIAS or NAME/VERSION.
        after: NAME, NAME@ALIAS or NAME/VERSION.
    """
    one, two = parse(before), parse(after)
    found = run(where, lambda registry, _: registry.diff(one, two))

    def row(d: "Difference") -> list[str]:
        return [_first(cell) for cell in (d.part, d.what, d.before or "-", d.after or "-")]

    columns = ("part", "what", before, after)
    listed(found, columns, row, json=json, none=f"{before} and {after} are the same model")


@registry.command
def tag(
    reference: str,
    /,
    *pairs: str,
    remove: Annotated[tuple[str, ...], Parameter(help="Key to remove, repeatable.")] = (),
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> None:
    """Set tags of a version, such as team=risk.

    Args:
        reference: NAME, NAME@ALIAS or NAME/VERSION.
        pairs: KEY=VALUE.
    """
    said = parse(reference)
    wanted: dict[str, str | None] = {**pairs_of(pairs, "tag"), **dict.fromkeys(remove)}

    version = run(where, lambda registry, actor: registry.tag(said, wanted, actor))
    result(version, f"{version.model}/{version.number} {_pairs(version.tags)}".rstrip(), json=json)


@registry.command
def metric(reference: str, /, *pairs: str, where: RegistryOptions = USUAL, json: Json = False) -> None:
    """Set metrics of a version that were measured after it was pushed, such as auc=.93.

    Args:
        reference: NAME, NAME@ALIAS or NAME/VERSION.
        pairs: NAME=NUMBER.
    """
    said, wanted = parse(reference), numbers_of(pairs, "metric")

    version = run(where, lambda registry, actor: registry.measure(said, wanted, actor))
    result(version, f"{version.model}/{version.number} {_pairs(version.metrics)}".rstrip(), json=json)


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
) -> None:
    """Restrict moves of an alias to tokens with a role.

    Args:
        name: NAME@ALIAS.
    """
    said = parse(name)
    if not said.alias:
        raise InvalidInput(f"{name} does not name an alias", fix="Say: NAME@ALIAS.")
    run(where, lambda registry, actor: registry.protect(said.model, said.alias, role, actor, why))
    told = f"{name} may be moved by everybody"
    if role:
        told = f"{name} is moved by {', '.join(role)}"
    result({"model": said.model, "alias": said.alias, "roles": role}, told, json=json)


def _digest(sha256: str) -> str:
    """Shorten a digest to a distinctive prefix."""
    return sha256.removeprefix("sha256:")[:12]


def _pairs(values: Any) -> str:
    return ", ".join(f"{key}={_first(str(value))}" for key, value in values.items())


def _first(text: str) -> str:
    """Return the text of a table cell."""
    text = printable(" ".join(text.split()))
    if len(text) <= _WIDE:
        return text
    return f"{text[: _WIDE - 1]}…"
