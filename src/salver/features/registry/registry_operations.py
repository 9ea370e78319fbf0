"""Management operations on models, versions and aliases of the registry.

Each change is made by the registry, with author and reason; nothing is decided here.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

from salver.features.registry.names import Reference
from salver.features.registry.records import Model, Move, Version
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.registry_views import (
    NUMBER,
    AliasView,
    Differences,
    DiffQuery,
    NewAlias,
    NewDefault,
    NewMetrics,
    NewTag,
    Protection,
    VersionLine,
    actor,
    named,
    reference,
    version_line,
)
from salver.transport.operations import (
    Answer,
    ApiRequest,
    Done,
    NoQuery,
    Operation,
    Page,
    PageQuery,
    Why,
    paged,
)
from salver.words.errors import InvalidInput, NotFound, Outdated

#: Changes that can be made conditional on the state that the caller has seen.
_CONDITIONAL = frozenset({"set_alias", "delete_alias"})
_Run = Callable[[ModelRegistry, ApiRequest], Awaitable[Answer]]


def model_operations(registry: ModelRegistry) -> list[Operation]:
    """Return the operations."""
    model, version = "/models/{model}", "/models/{model}/versions/{version}"
    alias, tag = "/models/{model}/aliases/{alias}", f"{version}/tags/{{key}}"
    every, page, lines = Page[Model], PageQuery, Page[VersionLine]
    looks: tuple[tuple[str, str, str, _Run, Any, Any], ...] = (
        ("list_models", "/models", "All models", _models, every, page),
        ("model", model, "A model and its aliases", _model, Model, NoQuery),
        (
            "list_versions",
            f"{model}/versions",
            "Versions of a model, the newest first",
            _versions,
            lines,
            page,
        ),
        ("version", version, "A version, by number or alias", _version, Version, NoQuery),
        ("diff", f"{model}/diff", "Differences between two versions", _diff, Differences, DiffQuery),
        ("alias", alias, "Version of an alias", _alias, AliasView, NoQuery),
    )
    mean, default = (
        "Move an alias, or propose a release that does",
        "Set the alias for requests without a version",
    )
    changes: tuple[tuple[str, Literal["PUT", "DELETE"], str, str, _Run, Any, Any], ...] = (
        ("set_alias", "PUT", alias, mean, _set_alias, Move, NewAlias),
        ("delete_alias", "DELETE", alias, "Remove an alias", _delete_alias, Done, Why),
        (
            "protect_alias",
            "PUT",
            f"{alias}/protection",
            "Restrict who may move an alias",
            _protect,
            AliasView,
            Protection,
        ),
        ("set_default", "PUT", f"{model}/default", default, _default, Model, NewDefault),
        (
            "remove_version",
            "DELETE",
            version,
            "Remove a version's files; its number is not reused",
            _remove,
            Done,
            Why,
        ),
        ("set_tag", "PUT", tag, "Set a tag", _set_tag, Version, NewTag),
        ("remove_tag", "DELETE", tag, "Remove a tag", _remove_tag, Version, Why),
        ("measure", "PUT", f"{version}/metrics", "Set metrics of a version", _measure, Version, NewMetrics),
    )
    return [
        *(
            Operation(
                name,
                "GET",
                path,
                summary,
                partial(run, registry),
                gives,
                query=query,
                filters=name == "list_models",
            )
            for name, path, summary, run, gives, query in looks
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
                right="registry",
                is_conditional=name in _CONDITIONAL,
            )
            for name, verb, path, summary, run, gives, takes in changes
        ),
    ]


async def _models(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    models = [model for model in await registry.models() if asked.may_see(model.name)]
    return Answer(paged(models, asked.query, key=lambda model: model.name))


async def _model(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    return Answer(await registry.model(asked.names["model"]))


async def _versions(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    after, most = asked.query.after, asked.query.limit
    if after and not NUMBER.fullmatch(after):
        raise InvalidInput("after which version?", field="query.after", fix="Say what next was.")
    found = await registry.versions(asked.names["model"], int(after or 0) or None, most + 1)
    lines = [version_line(version) for version in found[:most]]
    following = ""
    if len(found) > most:
        following = str(lines[-1].number)
    return Answer(Page(lines, following))


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
        means = number and f"version {number}"
        raise Outdated(
            f"the alias {names['model']}@{names['alias']} means {means or 'nothing'}, which is not what was "
            "seen",
            field="if-match",
            fix="Read it again, and send the etag of that GET.",
        )
    return number


async def _set_alias(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    names, wish, who = asked.names, asked.body, actor(asked.caller)
    seen = await _expected(registry, asked)
    model, alias = names["model"], names["alias"]
    return Answer(await registry.set_alias(model, alias, wish.version, who, wish.reason, expected=seen))


async def _delete_alias(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    names, who, seen = asked.names, actor(asked.caller), await _expected(registry, asked)
    await registry.delete_alias(names["model"], names["alias"], who, asked.body.reason, expected=seen)
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
    tags = {asked.names["key"]: asked.body.value}
    return Answer(await registry.tag(reference(asked), tags, actor(asked.caller)))


async def _remove_tag(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    return Answer(await registry.tag(reference(asked), {asked.names["key"]: None}, actor(asked.caller)))


async def _measure(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    return Answer(await registry.measure(reference(asked), asked.body.metrics, actor(asked.caller)))
