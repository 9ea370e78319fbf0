"""Usage and grants of quotas in the ledger: what its rows mean, and each change as one transaction."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, delete, func, select, text, true, update

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import QUOTA_USE, USAGE_FLUSH, USAGE_HOUR
from salver.features.usage.allowance import SliceGrant, SliceRequest, granted_of
from salver.features.usage.meters import COUNTS, Batch
from salver.features.usage.state_file import Use

#: Server of what has ended: the row has what was used by all of them.
_ENDED: Final = ""
#: Seconds after its last write for which a server counts as one that uses quotas.
_ALIVE_S: Final = 60.0
_WEEK_S: Final = 7 * 86_400.0
#: Days for which quotas of earlier periods are kept.
_QUOTA_DAYS: Final = 70


class Query(msgspec.Struct, frozen=True):
    """Selection of usage.

    Attributes:
        key, model: Only of this one; empty = of all.
        since, until: Unix seconds; only hours that begin in this time.
        by: What the rows tell apart: ``key``, ``model`` and ``hour``.
    """

    key: str = ""
    model: str = ""
    since: float = 0.0
    until: float = float("inf")
    by: Sequence[str] = ("key", "model")


class UsageStore:
    """Usage and quotas of one server in the ledger.

    Args:
        server: Id of this run of the server, which no other has ever had.
    """

    def __init__(self, ledger: Ledger, server: str) -> None:
        self.ledger = ledger
        self.server = server

    def __repr__(self) -> str:
        return f"<UsageStore of {self.server} in {self.ledger!r}>"

    async def flush(self, number: int, batch: Batch, uses: Sequence[Use], now: float) -> None:
        """Add usage once, however often it is tried, and tell what is used of quotas.

        Args:
            number: Number of the batch; those of a server go up.
        """
        server = self.server

        def work(connection: Connection) -> None:
            last = connection.execute(
                select(USAGE_FLUSH.c.number).where(USAGE_FLUSH.c.server == server)
            ).scalar()
            if last is not None and last >= number:
                return  # it was written, and its confirmation was lost
            if last is None:
                connection.execute(USAGE_FLUSH.insert().values(server=server, number=number, time=now))
            else:
                connection.execute(
                    update(USAGE_FLUSH).where(USAGE_FLUSH.c.server == server).values(number=number, time=now)
                )
            _add_hours(connection, batch)
            for use in uses:
                connection.execute(update(QUOTA_USE).where(*_place(use, server)).values(used=use.used))

        await self.ledger.write(work)

    async def take(self, requests: Sequence[SliceRequest], now: float) -> list[SliceGrant]:
        """Grant slices of quotas."""
        server = self.server

        def work(connection: Connection) -> list[SliceGrant]:
            alive = (
                select(func.count())
                .select_from(USAGE_FLUSH)
                .where(USAGE_FLUSH.c.time > now - _ALIVE_S, USAGE_FLUSH.c.server != server)
            )
            servers = 1 + int(connection.execute(alive).scalar_one())
            return [_take(connection, request, server, servers) for request in requests]

        return await self.ledger.write(work)

    async def settle(self, uses: Sequence[Use], server: str = "") -> None:
        """Give back what is left of slices.

        Args:
            server: Run that has them; empty = this one. Slices of it that are not in ``uses`` stay used.
        """
        owner = server or self.server

        def work(connection: Connection) -> None:
            for use in uses:
                gone = connection.execute(delete(QUOTA_USE).where(*_place(use, owner))).rowcount
                if gone:  # else it was settled before
                    _add_ended(connection, use)

        await self.ledger.write(work)

    async def left(
        self, periods: Iterable[str], key: str = ""
    ) -> dict[tuple[str, str, str], tuple[int, int]]:
        """Return what is granted and used of each quota by all servers, by key, quota and period.

        Args:
            key: Id of one key; empty = of all.
        """
        names = list(periods)

        def work(connection: Connection) -> dict[tuple[str, str, str], tuple[int, int]]:
            table = QUOTA_USE.c
            rows = connection.execute(
                select(table.key, table.quota, table.period, func.sum(table.granted), func.sum(table.used))
                .where(table.period.in_(names), table.key == key if key else true())
                .group_by(table.key, table.quota, table.period)
            )
            return {
                (key, quota, period): (int(granted), int(used)) for key, quota, period, granted, used in rows
            }

        return await self.ledger.read(work)

    async def find(self, query: Query) -> list[dict[str, Any]]:
        """Return the sums of usage, a row for each of what the query tells apart, in their order."""

        def work(connection: Connection) -> list[dict[str, Any]]:
            groups = [USAGE_HOUR.c[name] for name in query.by]
            sums = [func.sum(USAGE_HOUR.c[name]).label(name) for name in COUNTS]
            asked = select(*groups, *sums).where(USAGE_HOUR.c.hour >= query.since)
            if query.until != float("inf"):
                asked = asked.where(USAGE_HOUR.c.hour < query.until)
            for name in ("key", "model"):
                if wanted := getattr(query, name):
                    asked = asked.where(USAGE_HOUR.c[name] == wanted)
            rows = connection.execute(asked.group_by(*groups).order_by(*groups)).mappings()
            return [
                {name: value if name in ("key", "model") else int(value or 0) for name, value in row.items()}
                for row in rows
                if row["requests"] is not None
            ]

        return await self.ledger.read(work)

    async def prune(self, before: float, now: float) -> None:
        """Delete usage of hours before a time, and what nobody needs of quotas that are over."""
        oldest = f"{datetime.fromtimestamp(now - _QUOTA_DAYS * 86_400, UTC):%Y-%m-%d}"

        def work(connection: Connection) -> None:
            connection.execute(delete(USAGE_HOUR).where(USAGE_HOUR.c.hour < before))
            connection.execute(delete(QUOTA_USE).where(QUOTA_USE.c.period < oldest))
            connection.execute(delete(USAGE_FLUSH).where(USAGE_FLUSH.c.time < now - _WEEK_S))

        await self.ledger.write(work)


def _add_hours(connection: Connection, batch: Batch) -> None:
    """Add counts to the rows of their hours, which may exist."""
    if not batch:
        return
    names = ("key", "model", "hour", *COUNTS)
    marks = ", ".join(f":{name}" for name in names)
    sums = ", ".join(f"{name} = usage_hour.{name} + excluded.{name}" for name in COUNTS)
    rows = [
        dict(zip(names, (place.key, place.model, place.hour, *counts), strict=True))
        for place, counts in sorted(batch.items())
    ]
    connection.execute(
        text(
            f"INSERT INTO usage_hour ({', '.join(names)}) VALUES ({marks}) "
            f"ON CONFLICT (key, model, hour) DO UPDATE SET {sums}"
        ),
        rows,
    )


def _take(connection: Connection, request: SliceRequest, server: str, servers: int) -> SliceGrant:
    table = QUOTA_USE.c
    place = {"key": request.key, "quota": request.rule.name, "period": request.period.name}
    rows: Mapping[str, tuple[int, int]] = {
        owner: (int(granted), int(used))
        for owner, granted, used in connection.execute(
            select(table.server, table.granted, table.used).where(
                *(table[name] == value for name, value in place.items())
            )
        )
    }
    mine = rows.get(server)
    others = sum(granted for owner, (granted, _) in rows.items() if owner != server)
    answer = granted_of(request, mine[0] if mine else 0, others, servers)
    values = {"granted": answer.count, "used": request.used}
    if mine is None:
        connection.execute(QUOTA_USE.insert().values(server=server, **place, **values))
    else:
        use = Use(request.key, request.rule.name, request.period.name, 0)
        connection.execute(update(QUOTA_USE).where(*_place(use, server)).values(**values))
    unused = sum(max(0, granted - used) for owner, (granted, used) in rows.items() if owner != server)
    return msgspec.structs.replace(answer, left=answer.left + unused)


def _add_ended(connection: Connection, use: Use) -> None:
    """Add to what servers have used that have ended."""
    table = QUOTA_USE.c
    found = connection.execute(
        update(QUOTA_USE)
        .where(*_place(use, _ENDED))
        .values(granted=table.granted + use.used, used=table.used + use.used)
    ).rowcount
    if not found:
        connection.execute(
            QUOTA_USE.insert().values(
                key=use.key,
                quota=use.quota,
                period=use.period,
                server=_ENDED,
                granted=use.used,
                used=use.used,
            )
        )


def _place(use: Use, server: str) -> tuple[Any, ...]:
    table = QUOTA_USE.c
    return (
        table.key == use.key,
        table.quota == use.quota,
        table.period == use.period,
        table.server == server,
    )
