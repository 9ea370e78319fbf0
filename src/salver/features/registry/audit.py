"""Audit log: one permanent line per change, with author, time and reason, written with the change.

Deliveries to webhooks (``webhooks.py``) are created at the same time.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select

from salver.features.ledger.schema import AUDIT, DELIVERY, WEBHOOK
from salver.features.registry.records import Action, Actor, Entry

_MOST: Final = 1000


class Change(msgspec.Struct, frozen=True):
    """Author and reason of a change.

    Attributes:
        time: Unix seconds.
    """

    actor: Actor
    time: float
    why: str = ""


def record(
    connection: Connection,
    change: Change,
    action: Action,
    model: str = "",
    subject: str = "",
    before: object = "",
    after: object = "",
) -> Entry:
    """Record a change within its transaction."""
    row: dict[str, Any] = {
        "time": change.time,
        "actor": change.actor.name,
        "action": action,
        "model": model,
        "subject": subject,
        "before": "" if before is None else str(before),
        "after": "" if after is None else str(after),
        "why": change.why,
    }
    (seq,) = connection.execute(insert(AUDIT).returning(AUDIT.c.seq), row).one()
    entry = Entry(seq=seq, **row)
    _tell(connection, entry)
    return entry


def _tell(connection: Connection, entry: Entry) -> None:
    """Create deliveries for the webhooks that subscribe to it."""
    if entry.action.startswith(("webhook.", "token.", "key.", "limits.")):  # not for other models
        return
    wanting = select(WEBHOOK.c.id, WEBHOOK.c.events).where(WEBHOOK.c.model.in_(["", entry.model]))
    body = msgspec.json.encode({"type": entry.action, "timestamp": entry.time, "data": entry}).decode()
    rows = [
        {"webhook": id, "audit": entry.seq, "body": body, "due": entry.time}
        for id, events in connection.execute(wanting)
        if not (wanted := msgspec.json.decode(events)) or entry.action in wanted
    ]
    if rows:
        connection.execute(insert(DELIVERY), rows)


def history(connection: Connection, model: str = "", before: int = 0, most: int = 100) -> Sequence[Entry]:
    """Return the last changes, the newest first.

    Args:
        model: Model name; empty = all.
        before: Only lower numbers; 0 = from the newest.
    """
    query = select(AUDIT).order_by(AUDIT.c.seq.desc()).limit(min(max(most, 1), _MOST))
    if model:
        query = query.where(AUDIT.c.model == model)
    if before:
        query = query.where(AUDIT.c.seq < before)
    return [Entry(**row) for row in connection.execute(query).mappings()]
