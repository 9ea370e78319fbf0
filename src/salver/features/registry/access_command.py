"""``salver registry token`` and ``webhook``: access to protected aliases, and notification of changes."""

import secrets
import time
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from salver.features.registry.command_options import USUAL, RegistryOptions, Why, new_id, run
from salver.terminal.options import Json
from salver.terminal.output import line, listed, moment, record, remark

if TYPE_CHECKING:
    from salver.features.registry.records import Actor, Delivery, Token, Webhook
    from salver.features.registry.registry import ModelRegistry
    from salver.features.registry.tokens import Tokens
    from salver.features.registry.webhooks import Webhooks

token = App(
    name="token",
    help="Tokens with roles for moving protected aliases, passed in SALVER_TOKEN.",
    default_parameter=Parameter(negative=()),
)
webhook = App(
    name="webhook",
    help="URLs notified of changes, signed according to Standard Webhooks.",
    default_parameter=Parameter(negative=()),
)


def _tokens(registry: "ModelRegistry") -> "Tokens":
    from salver.features.registry.tokens import Tokens

    return Tokens(registry.ledger, time.time, new_id, secrets.token_bytes)


def _webhooks(registry: "ModelRegistry") -> "Webhooks":
    from salver.features.registry.webhooks import Webhooks

    return Webhooks(registry.ledger, time.time, new_id, secrets.token_bytes)


@token.command(name="add")
def add_token(
    name: str,
    /,
    *,
    role: Annotated[tuple[str, ...], Parameter(help="Role of the token, repeatable.")] = (),
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Create a token and show it once. If anybody has the role admin, only an admin may do this.

    Args:
        name: Owner of the token.
    """

    async def work(registry: "ModelRegistry", actor: "Actor") -> "tuple[Token, str]":
        return await _tokens(registry).make(name, role, actor)

    made, text = run(where, work, makes=True)
    if json:
        record({"id": made.id, "name": made.name, "roles": made.roles, "token": text})
    else:
        line(text)
        remark(f"the token {made.id} of {name}; it is not shown again")
    return 0


@token.command(name="list")
def list_tokens(*, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """List the owners and roles of tokens."""
    found = run(where, lambda registry, _: _tokens(registry).list())
    columns = ("id", "name", "roles", "by")
    listed(
        found,
        columns,
        lambda t: [t.id, t.name, ", ".join(t.roles), t.by],
        json=json,
        none="there are no tokens",
    )
    return 0


@token.command
def revoke(id: str, /, *, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """Revoke a token.

    Args:
        id: Id of the token.
    """
    run(where, lambda registry, actor: _tokens(registry).revoke(id, actor))
    record({"id": id, "done": "revoked"}) if json else line(f"{id} is revoked")
    return 0


@webhook.command(name="add")
def add_webhook(
    url: str,
    /,
    *,
    model: Annotated[str, Parameter(help="Only changes of this model (default: all).")] = "",
    event: Annotated[
        tuple[str, ...], Parameter(help="Event such as alias.moved, repeatable (default: all).")
    ] = (),
    why: Why = "",
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Add a webhook for changes and show its signing secret once.

    Args:
        url: URL that accepts POST requests.
    """

    async def work(registry: "ModelRegistry", actor: "Actor") -> "tuple[Webhook, str]":
        return await _webhooks(registry).add(url, model, event, actor, why)

    made, secret = run(where, work, makes=True)
    if json:
        record({"id": made.id, "url": made.url, "secret": secret})
    else:
        line(secret)
        remark(f"the secret of the webhook {made.id}; it is not shown again")
    return 0


@webhook.command(name="list")
def list_webhooks(*, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """List webhooks."""
    found = run(where, lambda registry, _: _webhooks(registry).list())

    def row(hook: "Webhook") -> list[str]:
        return [hook.id, hook.url, hook.model or "all", ", ".join(hook.events) or "all", hook.by]

    columns = ("id", "url", "model", "events", "by")
    listed(found, columns, row, json=json, none="there are no webhooks", needless=("by",))
    return 0


@webhook.command(name="remove")
def remove_webhook(id: str, /, *, why: Why = "", where: RegistryOptions = USUAL, json: Json = False) -> int:
    """Remove a webhook.

    Args:
        id: Id of the webhook.
    """
    run(where, lambda registry, actor: _webhooks(registry).remove(id, actor, why))
    record({"id": id, "done": "removed"}) if json else line(f"{id} is removed")
    return 0


@webhook.command(name="deliveries")
def list_deliveries(
    id: str = "",
    /,
    *,
    state: Annotated[
        Literal["waiting", "failing", "told", "given_up"] | None,
        Parameter(help="Only deliveries in this state."),
    ] = None,
    limit: Annotated[int, Parameter(help="Maximum number of lines, newest first.")] = 50,
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """List deliveries of webhooks with their errors and next attempts, the newest first.

    Args:
        id: Id of a webhook (default: all).
    """
    found = run(where, lambda registry, _: _webhooks(registry).deliveries(id, state, most=limit))

    def row(each: "Delivery") -> list[str]:
        what = f"{each.action} {each.model} {each.subject}".rstrip()
        tried = str(each.attempts)
        then = moment(each.next) if each.next is not None else ""
        return [str(each.id), each.webhook, what, moment(each.created), each.state, tried, then, each.error]

    columns = ("id", "webhook", "what", "when", "state", "tries", "next", "error")
    none, needless = "there are no such deliveries", ("tries", "webhook", "next")
    listed(found, columns, row, json=json, none=none, needless=needless)
    return 0


@webhook.command
def redeliver(id: int, /, *, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """Deliver a change again, now, with later retries if necessary.

    Args:
        id: Id of the delivery.
    """
    delivery = run(where, lambda registry, _: _webhooks(registry).redeliver(id))
    record(delivery) if json else line(f"{delivery.webhook} is told anew of {delivery.action}")
    return 0
