"""Management operations on models, versions and aliases of the registry.

Each change is made by the registry, with author and reason; nothing is decided here.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec

from salver.features.registry.names import LATEST, Reference, check_alias
from salver.features.registry.records import Actor, Difference, Model, Move, Version
from salver.features.registry.registry import ModelRegistry
from salver.transport.access_check import Caller
from salver.transport.operations import (
    MOST_NUMBER,
    Answer,
    ApiRequest,
    Done,
    Operation,
    Page,
    PageQuery,
    Why,
    paged,
)
from salver.words.errors import InvalidInput, NotFound, Outdated

#: Changes that can be made conditional on the state that the caller has seen.
_CONDITIONAL = frozenset({"set_alias", "delete_alias"})
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_Run = Callable[[ModelRegistry, ApiRequest], Awaitable[Answer]]


class VersionLine(msgspec.Struct, frozen=True):
    """Summary of a version.

    Attributes:
        size: Bytes of all files.
    """

    number: int
    digest: str
    size: int
    framework: str
    format: str
    created: float
    by: str
    why: str
    source: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


class AliasView(msgspec.Struct, frozen=True):
    """An alias, its version, and the roles of which one is needed to move it; empty = no restriction."""

    model: str
    alias: str
    number: int
    protected: tuple[str, ...]


class Differences(msgspec.Struct, frozen=True):
    """Differences of the second version from the first."""

    before: int
    after: int
    items: tuple[Difference, ...]


class DiffQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two versions: numbers or aliases."""

    before: str
    after: str


class NewAlias(Why, frozen=True, forbid_unknown_fields=True):
    """Version for an alias."""

    version: Annotated[int, msgspec.Meta(ge=1, le=MOST_NUMBER)]


class Protection(Why, frozen=True, forbid_unknown_fields=True):
    """Roles of which one is needed to move the alias; empty = no restriction."""

    roles: Annotated[tuple[str, ...], msgspec.Meta(max_length=32)]


class NewDefault(Why, frozen=True, forbid_unknown_fields=True):
    """Alias of requests that name no version; empty = ``champion``, or the newest version."""

    alias: str


class NewTag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Value of a tag."""

    value: Annotated[str, msgspec.Meta(max_length=4096)]


class NewMetrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers by name, measured after the version was pushed."""

    metrics: Annotated[Mapping[str, float], msgspec.Meta(max_length=200)]


def model_operations(registry: ModelRegistry) -> list[Operation]:
    """Return the operations."""
    model, version = "/models/{model}", "/models/{model}/versions/{version}"
    alias = "/models/{model}/aliases/{alias}"
    looks: tuple[tuple[str, str, str, _Run, Any, dict[str, Any]], ...] = (
        ("list_models", "/models", "All models", _models, Page[Model], {"query": PageQuery}),
        ("model", model, "A model and its aliases", _model, Model, {}),
        (
            "list_versions",
            f"{model}/versions",
            "Its versions, the newest first",
            _versions,
            Page[VersionLine],
            {"query": PageQuery},
        ),
        ("version", version, "A version, by number or alias", _version, Version, {}),
        ("diff", f"{model}/diff", "In what two versions differ", _diff, Differences, {"query": DiffQuery}),
        ("alias", alias, "What an alias means", _alias, AliasView, {}),
    )
    changes: tuple[tuple[str, Literal["PUT", "DELETE"], str, str, _Run, Any, Any], ...] = (
        (
            "set_alias",
            "PUT",
            alias,
            "Let it mean a version, or propose that to a release",
            _set_alias,
            Move,
            NewAlias,
        ),
        ("delete_alias", "DELETE", alias, "Let it mean nothing", _delete_alias, Done, Why),
        ("protect_alias", "PUT", f"{alias}/protection", "Who may move it", _protect, AliasView, Protection),
        (
            "set_default",
            "PUT",
            f"{model}/default",
            "Where requests without a version go",
            _default,
            Model,
            NewDefault,
        ),
        ("remove_version", "DELETE", version, "Remove its files; its number stays taken", _remove, Done, Why),
        ("set_tag", "PUT", f"{version}/tags/{{key}}", "Set a tag", _set_tag, Version, NewTag),
        ("remove_tag", "DELETE", f"{version}/tags/{{key}}", "Remove a tag", _remove_tag, Version, Why),
        ("measure", "PUT", f"{version}/metrics", "Set metrics of it", _measure, Version, NewMetrics),
    )
    return [
        *(
            Operation(name, "GET", path, summary, partial(run, registry), gives, **more)
            for name, path, summary, run, gives, more in looks
        ),
        *(
            Operation(
                name,
                verb,
                path,
                summary,
                partial(run, registry),
                gives,
                takes,
                changes=True,
                is_conditional=name in _CONDITIONAL,
            )
            for name, verb, path, summary, run, gives, takes in changes
        ),
    ]


def actor(caller: Caller) -> Actor:
    """Return the caller as recorded in the registry."""
    return Actor(caller.name, caller.roles)


def reference(asked: ApiRequest) -> Reference:
    """Return the reference in the path, by number or alias."""
    return named(asked.names["model"], asked.names["version"])


def named(model: str, version: str) -> Reference:
    """Return a reference by number or alias.

    Raises:
        InvalidInput: the name is not allowed for an alias.
    """
    if _NUMBER.fullmatch(version):
        return Reference(model, number=int(version))
    return Reference(model, alias="" if version == LATEST else check_alias(version))


async def _models(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    return Answer(paged(await registry.models(), asked.query, key=lambda model: model.name))


async def _model(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    return Answer(await registry.model(asked.names["model"]))


async def _versions(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    after, most = asked.query.after, asked.query.limit
    if after and not _NUMBER.fullmatch(after):
        raise InvalidInput("after which version?", field="query.after", fix="Say what next was.")
    found = await registry.versions(asked.names["model"], int(after) if after else None, most + 1)
    lines = [_line(version) for version in found[:most]]
    return Answer(Page(lines, str(lines[-1].number) if len(found) > most else ""))


def _line(version: Version) -> VersionLine:
    what = version.description
    kept = {name: getattr(version, name) for name in VersionLine.__struct_fields__ if name not in _DESCRIBED}
    return VersionLine(framework=what.framework, format=what.format, **kept)


_DESCRIBED = ("framework", "format")


async def _version(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    return Answer(await registry.version(reference(asked)))


async def _diff(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    name, query = asked.names["model"], asked.query
    before = await registry.version(named(name, query.before))
    after = await registry.version(named(name, query.after))
    items = await registry.diff(Reference(name, before.number), Reference(name, after.number))
    return Answer(Differences(before.number, after.number, items))


async def _alias(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    view = await _seen(registry, asked)
    return Answer(view, etag=_tag(view.alias, view.number))


async def _seen(registry: ModelRegistry, asked: ApiRequest) -> AliasView:
    model, alias = await registry.model(asked.names["model"]), asked.names["alias"]
    if alias not in model.aliases:
        raise NotFound(f"the model '{model.name}' has no alias '{alias}'", field="alias")
    return AliasView(model.name, alias, model.aliases[alias], model.protected.get(alias, ()))


def _tag(alias: str, number: int) -> str:
    return f"{alias}-{number}"


async def _expected(registry: ModelRegistry, asked: ApiRequest) -> int | None:
    """Return the version of the alias if it matches the caller's condition; None = no condition.

    Raises:
        Outdated: it does not match.
    """
    if not asked.expected:
        return None
    names = asked.names
    number = (await registry.model(names["model"])).aliases.get(names["alias"])
    if number is None or not asked.expected & {"*", _tag(names["alias"], number)}:
        means = "means nothing" if number is None else f"means version {number}"
        raise Outdated(
            f"the alias {names['model']}@{names['alias']} {means}, which is not what was seen",
            field="if-match",
            fix="Read it again, and send the etag of that GET.",
        )
    return number


async def _set_alias(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    names, wish, who = asked.names, asked.body, actor(asked.caller)
    move = await registry.set_alias(
        names["model"],
        names["alias"],
        wish.version,
        who,
        wish.reason,
        expected=await _expected(registry, asked),
    )
    return Answer(move)


async def _delete_alias(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    names, who = asked.names, actor(asked.caller)
    await registry.delete_alias(
        names["model"], names["alias"], who, asked.body.reason, expected=await _expected(registry, asked)
    )
    return Answer(Done())


async def _protect(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    names, wish = asked.names, asked.body
    await registry.protect(names["model"], names["alias"], wish.roles, actor(asked.caller), wish.reason)
    return Answer(await _seen(registry, asked))


async def _default(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    await registry.set_default(asked.names["model"], asked.body.alias, actor(asked.caller), asked.body.reason)
    return await _model(registry, asked)


async def _remove(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    version = await registry.version(reference(asked))
    await registry.remove(version.model, version.number, actor(asked.caller), asked.body.reason)
    return Answer(Done())


async def _set_tag(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    await registry.tag(reference(asked), asked.names["key"], asked.body.value, actor(asked.caller))
    return await _version(registry, asked)


async def _remove_tag(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    await registry.tag(reference(asked), asked.names["key"], None, actor(asked.caller))
    return await _version(registry, asked)


async def _measure(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    await registry.measure(reference(asked), asked.body.metrics, actor(asked.caller))
    return await _version(registry, asked)
