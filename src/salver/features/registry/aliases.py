"""Aliases: the version that each points to, permissions, and moves through releases.

An alias points to exactly one version. If the model has a rollout policy, moving an existing alias is a
proposal: a release starts, and the alias moves on promotion. The functions run within a transaction, so that
a promotion moves the alias in the same transaction as its decision.
"""

import math
from typing import Final

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from salver.features.ledger.schema import ALIAS, MODEL, PROTECTION, RELEASE, TOKEN
from salver.features.registry import rows
from salver.features.registry.audit import Change, record
from salver.features.registry.names import Reference, check_alias
from salver.features.registry.records import Action, Model, Move
from salver.words.errors import Conflict, Forbidden, InvalidInput, NotFound, Outdated
from salver.words.releases import ReleaseState

IMMEDIATE: Final = "immediate"


def set_alias(
    connection: Connection,
    change: Change,
    model: str,
    alias: str,
    number: int,
    release: str,
    expected: int | None = None,
) -> Move:
    """Point an alias to a version, or propose that.

    Args:
        release: Id for a release, if one is proposed.
        expected: Required current version; None = any.

    Raises:
        NotFound: no such model or version.
        Outdated: it does not point to the expected version.
        Forbidden: the alias is protected, and the actor has none of its roles.
        Conflict: another release of this alias is active.
    """
    check_alias(alias)
    known = rows.model(connection, model)
    check_guard(connection, change, model, alias)
    rows.number_of(connection, Reference(model, number))
    before = known.aliases.get(alias)
    _check_expected(model, alias, before, expected)
    if before == number:
        return Move(model, alias, number, before)
    check_free(connection, model, alias)
    if before is None or known.policy == IMMEDIATE:
        return move(connection, change, model, alias, number)
    _propose(connection, change, known.policy, Move(model, alias, number, before, release))
    record(connection, change, "alias.proposed", model, alias, before, number)
    return Move(model, alias, number, before, release)


def move(connection: Connection, change: Change, model: str, alias: str, number: int) -> Move:
    """Point an alias to a version regardless of protection, and record it."""
    before = meant(connection, model, alias)
    values = {"number": number, "moved": change.time}
    if before is None:
        connection.execute(insert(ALIAS), {"model": model, "name": alias, **values})
    else:
        mine = (ALIAS.c.model == model, ALIAS.c.name == alias)
        connection.execute(update(ALIAS).where(*mine).values(values))
    record(connection, change, "alias.moved", model, alias, before, number)
    return Move(model, alias, number, before)


def meant(connection: Connection, model: str, alias: str) -> int | None:
    """Return the version of an alias; None = no such alias."""
    mine = (ALIAS.c.model == model, ALIAS.c.name == alias)
    number: int | None = connection.scalar(select(ALIAS.c.number).where(*mine))
    return number


def delete_alias(
    connection: Connection, change: Change, model: str, alias: str, expected: int | None = None
) -> None:
    """Delete an alias.

    Raises:
        NotFound: no such alias.
        Outdated: it does not point to the expected version.
        Forbidden: it is protected from this actor.
        Conflict: a release of it is active.
    """
    check_guard(connection, change, model, alias)
    check_free(connection, model, alias)
    before = rows.model(connection, model).aliases.get(alias)
    if before is None:
        raise NotFound(f"the model {model!r} has no alias {alias!r}", field="alias")
    _check_expected(model, alias, before, expected)
    connection.execute(delete(ALIAS).where(ALIAS.c.model == model, ALIAS.c.name == alias))
    record(connection, change, "alias.deleted", model, alias, before)


def protect(connection: Connection, change: Change, model: str, alias: str, roles: tuple[str, ...]) -> None:
    """Require one of these roles to move an alias; empty = no restriction.

    Raises:
        NotFound: no such model.
        Forbidden: it is protected from this actor.
        InvalidInput: no token has such a role, so that the alias could never be moved.
    """
    check_alias(alias)
    known = rows.model(connection, model)
    check_guard(connection, change, model, alias)
    held = {role for text in connection.scalars(select(TOKEN.c.roles)) for role in msgspec.json.decode(text)}
    if roles and not held & set(roles):
        raise InvalidInput(
            f"no token has the role {' or '.join(roles)}, so {alias!r} could never be moved",
            fix=f"Create one first: salver registry token add NAME --role {roles[0]}.",
        )
    connection.execute(delete(PROTECTION).where(PROTECTION.c.model == model, PROTECTION.c.alias == alias))
    if roles:
        row = {"model": model, "alias": alias, "roles": msgspec.json.encode(sorted(roles)).decode()}
        connection.execute(insert(PROTECTION), row)
    before = ", ".join(known.protected.get(alias, ()))
    action: Action = "alias.protected" if roles else "alias.unprotected"
    record(connection, change, action, model, alias, before, ", ".join(sorted(roles)))


def check_guard(connection: Connection, change: Change, model: str, alias: str) -> None:
    """Check that an actor may move an alias.

    Raises:
        Forbidden: it may not.
    """
    mine = (PROTECTION.c.model == model, PROTECTION.c.alias == alias)
    text = connection.scalar(select(PROTECTION.c.roles).where(*mine))
    roles = set(msgspec.json.decode(text)) if text else set()
    if roles and not roles & change.actor.roles:
        raise Forbidden(
            f"the alias {model}@{alias} is protected: {change.actor.name} has none of its roles "
            f"({', '.join(sorted(roles))})",
            field="alias",
            fix="Use a token with such a role: SALVER_TOKEN=… .",
        )


def set_policy(
    connection: Connection, change: Change, model: str, policy: object, expected: Model | None
) -> None:
    """Set what moving an alias does: ``immediate``, or a rollout policy, which is not validated here."""
    known = rows.model(connection, model)
    if expected is not None and known != expected:
        raise Outdated(
            f"the model {model!r} has changed since it was read",
            field="model",
            fix="Read it again, then decide.",
        )
    text = msgspec.json.encode(policy).decode()
    connection.execute(update(MODEL).where(MODEL.c.name == model).values(policy=text))
    before = msgspec.json.encode(known.policy).decode()
    record(connection, change, "model.changed", model, "policy", before, text)


def set_default(connection: Connection, change: Change, model: str, alias: str) -> None:
    """Set the alias for requests that name no version; empty = ``champion``, or the newest version."""
    known = rows.model(connection, model)
    if alias and alias not in known.aliases:
        raise NotFound(f"the model {model!r} has no alias {alias!r}", field="alias")
    connection.execute(update(MODEL).where(MODEL.c.name == model).values(default_alias=alias))
    record(connection, change, "model.changed", model, "default_alias", known.default_alias, alias)


def _check_expected(model: str, alias: str, before: int | None, expected: int | None) -> None:
    if expected is not None and before != expected:
        means = "means nothing"
        if before is not None:
            means = f"means version {before}"
        raise Outdated(
            f"the alias {model}@{alias} {means} by now", field="alias", fix="Read it again, then decide."
        )


def latest(connection: Connection, model: str, now: float) -> float:
    """Return a creation time later than those of all releases of the model, however clocks were set."""
    last = connection.scalar(select(func.max(RELEASE.c.created)).where(RELEASE.c.model == model))
    if last is None or last < now:
        return now
    return math.nextafter(last, math.inf)


def check_free(connection: Connection, model: str, alias: str) -> None:
    """Check that an alias may be moved by hand, or by a new release.

    Args:
        alias: Empty = the default version of requests.

    Raises:
        Conflict: a release of it is active.
    """
    mine = (RELEASE.c.model == model, RELEASE.c.alias == alias, RELEASE.c.ended.is_(None))
    if (id := connection.scalar(select(RELEASE.c.id).where(*mine))) is not None:
        raise Conflict(
            f"the release {id} of {model}{alias and '@'}{alias} is under way",
            field="alias",
            fix=f"Wait for its end, or abort it: salver rollout abort {id}",
        )


def _propose(connection: Connection, change: Change, policy: object, wish: Move) -> None:
    row = {
        "id": wish.release,
        "model": wish.model,
        "stable": str(wish.before),
        "canary": str(wish.number),
        "alias": wish.alias,
        "salt": wish.release,
        "policy": msgspec.json.encode(policy).decode(),
        "state": ReleaseState.PROPOSED.value,
        "created": latest(connection, wish.model, change.time),
        "by": change.actor.name,
        "why": change.why,
        "changed": change.time,
    }
    connection.execute(insert(RELEASE), row)
