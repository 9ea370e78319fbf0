"""``salver registry token`` and ``webhook``: access to protected aliases, and notification of changes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from salver.features.registry.command_options import USUAL, RegistryOptions, Why, run, tokens, webhooks
from salver.terminal.options import Json
from salver.terminal.output import line, listed, moment, record, remark, result

if TYPE_CHECKING:
    from salver.features.registry.records import Delivery, Token, Webhook

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


@token.command(name="add")
def add_token(
    name: str,
    /,
    *,
    role: Annotated[tuple[str, ...], Parameter(help="Role of the token, repeatable.")] = (),
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> None:
    """Create a token and show it once. If a token has the role admin, only an admin may do this.

    Args:
        name: Owner of the token.
    """
    made, text = run(where, lambda registry, actor: tokens(registry).make(name, role, actor), makes=True)
    if json:
        record({"id": made.id, "name": made.name, "roles": made.roles, "token": text})
    else:
        line(text)
        remark(f"the token {made.id} of {name}; it is not shown again")


@token.command(name="list")
def list_tokens(*, where: RegistryOptions = USUAL, json: Json = False) -> None:
    """List the owners and roles of tokens."""
    found = run(where, lambda registry, _: tokens(registry).list())

    def row(one: "Token") -> list[str]:
        return [one.id, one.name, ", ".join(one.roles), one.by]

    listed(found, ("id", "name", "roles", "by"), row, json=json, none="there are no tokens")


@token.command
def revoke(id: str, /, *, where: RegistryOptions = USUAL, json: Json = False) -> None:
    """Revoke a token.

    Args:
        id: Id of the token.
    """
    run(where, lambda registry, actor: tokens(registry).revoke(id, actor))
    result({"id": id, "done": "revoked"}, f"{id} is revoked", json=json)


def _content(path: str) -> str:
    from salver.words.errors import InvalidInput

    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read", field="--secret-file") from error


@webhook.command(name="add")
def add_webhook(
    url: str,
    /,
    *,
    model: Annotated[str, Parameter(help="Only changes of this model (default: all).")] = "",
    event: Annotated[
        tuple[str, ...], Parameter(help="Event such as alias.moved, repeatable (default: all).")
    ] = (),
    secret_file: Annotated[
        str, Parameter(help="File with the receiver's signing secret (default: make one and show it once).")
    ] = "",
    why: Why = "",
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> None:
    """Add a webhook for changes and show its signing secret once.

    Args:
        url: URL that accepts POST requests.
    """
    own = _content(secret_file) if secret_file else ""
    made, secret = run(
        where, lambda registry, actor: webhooks(registry).add(url, model, event, actor, why, own), makes=True
    )
    if json:
        record({"id": made.id, "url": made.url, "secret": secret})
    elif own:
        remark(f"the webhook {made.id} is added; its receiver has the secret")
    else:
        line(secret)
        remark(f"the secret of the webhook {made.id}; it is not shown again")


@webhook.command(name="list")
def list_webhooks(*, where: RegistryOptions = USUAL, json: Json = False) -> None:
    """List webhooks, without names and passwords in their URLs."""
    from salver.stores.sources.connecting import without_user

    kept = run(where, lambda registry, _: webhooks(registry).list())
    found = [msgspec.structs.replace(hook, url=without_user(hook.url)[0]) for hook in kept]

    def row(hook: "Webhook") -> list[str]:
        return [hook.id, hook.url, hook.model or "all", ", ".join(hook.events) or "all", hook.by]

    columns = ("id", "url", "model", "events", "by")
    listed(found, columns, row, json=json, none="there are no webhooks", needless=("by",))


@webhook.command(name="remove")
def remove_webhook(id: str, /, *, why: Why = "", where: RegistryOptions = USUAL, json: Json = False) -> None:
    """Remove a webhook.

    Args:
        id: Id of the webhook.
    """
    run(where, lambda registry, actor: webhooks(registry).remove(id, actor, why))
    result({"id": id, "done": "removed"}, f"{id} is removed", json=json)


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
) -> None:
    """List deliveries of webhooks with their errors and next attempts, the newest first.

    Args:
        id: Id of a webhook (default: all).
    """
    found = run(where, lambda registry, _: webhooks(registry).deliveries(id, state, most=limit))

    def row(each: "Delivery") -> list[str]:
        what = f"{each.action} {each.model} {each.subject}".rstrip()
        tried = str(each.attempts)
        then = ""
        if each.next is not None:
            then = moment(each.next)
        return [str(each.id), each.webhook, what, moment(each.created), each.state, tried, then, each.error]

    columns = ("id", "webhook", "what", "when", "state", "tries", "next", "error")
    none, needless = "there are no such deliveries", ("tries", "webhook", "next")
    listed(found, columns, row, json=json, none=none, needless=needless)


@webhook.command
def redeliver(id: int, /, *, where: RegistryOptions = USUAL, json: Json = False) -> None:
    """Deliver a change again, now, with later retries if necessary.

    Args:
        id: Id of the delivery.
    """
    delivery = run(where, lambda registry, _: webhooks(registry).redeliver(id))
    result(delivery, f"{delivery.webhook} gets {delivery.action} again", json=json)
