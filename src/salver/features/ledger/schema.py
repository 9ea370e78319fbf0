"""Tables and columns of the ledger.

Each has the schema version that introduced it (``since``), and a rule for its rows (``rows``): ``kept`` =
never changed or deleted, corrections are new rows; ``unchanged`` = not changed, but deleted when old.
``migrations.py`` creates the database. Times are Unix seconds; JSON is text written by msgspec, so that
floats are restored exactly; 64-bit hashes are stored signed.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.schema import SchemaItem

Rows = Literal["free", "unchanged", "kept"]

METADATA: Final = MetaData()
#: Schema version that this Salver writes.
NEWEST: Final = 9
#: SQLite auto-increments only columns of this type.
_COUNTED: Final = BigInteger().with_variant(Integer(), "sqlite")


def _table(name: str, key: Sequence[str], *items: SchemaItem, since: int, rows: Rows = "free") -> Table:
    return Table(name, METADATA, *items, PrimaryKeyConstraint(*key), info={"since": since, "rows": rows})


def _text(name: str, default: str | None = None) -> Column[Any]:
    return Column(name, Text, nullable=False, server_default=default)


def _json(name: str, default: str = "{}") -> Column[Any]:
    return Column(name, Text, nullable=False, server_default=default)


def _whole(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False)


def _number(name: str) -> Column[Any]:
    return Column(name, Double, nullable=False)


def _maybe(name: str) -> Column[Any]:
    """Return a column for a number, or a time that may be missing."""
    return Column(name, Double, nullable=True)


def _counted(name: str) -> Column[Any]:
    return Column(name, _COUNTED, Identity(), nullable=False, autoincrement=True)


def _of_release() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["release"], ["release.id"])


def _of_version() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["model", "number"], ["version.model", "version.number"])


# The registry.

#: ``default_alias``: alias of requests without a version; ``policy``: what moving an alias does,
#: ``immediate`` or a rollout policy.
MODEL: Final = _table(
    "model",
    ["name"],
    _text("name"),
    _text("default_alias", ""),
    _json("policy", '"immediate"'),
    _whole("last_number"),
    _number("created"),
    _text("by"),
    since=1,
)

#: ``files``: path, size and sha256 of each; ``removed``: when its files were removed (the number stays used).
VERSION: Final = _table(
    "version",
    ["model", "number"],
    _text("model"),
    _whole("number"),
    _text("digest"),
    _whole("size"),
    _json("files", "[]"),
    _text("framework"),
    _text("format"),
    _json("signature"),
    _json("resources"),
    _json("performance"),
    _text("card", ""),
    _json("front_matter"),
    _text("source", ""),
    _number("created"),
    _text("by"),
    _text("why", ""),
    _maybe("removed"),
    ForeignKeyConstraint(["model"], ["model.name"]),
    since=1,
)

#: ``kind``: ``version``, ``data`` or ``run``.
PARENT: Final = _table(
    "parent",
    ["model", "number", "kind", "reference"],
    _text("model"),
    _whole("number"),
    _text("kind"),
    _text("reference"),
    _of_version(),
    since=1,
    rows="kept",
)

TAG: Final = _table(
    "tag",
    ["model", "number", "key"],
    _text("model"),
    _whole("number"),
    _text("key"),
    _text("value"),
    _of_version(),
    since=1,
)

METRIC: Final = _table(
    "metric",
    ["model", "number", "name"],
    _text("model"),
    _whole("number"),
    _text("name"),
    _number("value"),
    _of_version(),
    since=1,
)

ALIAS: Final = _table(
    "alias",
    ["model", "name"],
    _text("model"),
    _text("name"),
    _whole("number"),
    _number("moved"),
    _of_version(),
    since=1,
)

#: Roles that may move an alias, whether or not it exists.
PROTECTION: Final = _table(
    "protection",
    ["model", "alias"],
    _text("model"),
    _text("alias"),
    _json("roles", "[]"),
    ForeignKeyConstraint(["model"], ["model.name"]),
    since=1,
)

#: ``subject``: the alias, version, tag or webhook; ``before`` and ``after``: old and new value.
AUDIT: Final = _table(
    "audit",
    ["seq"],
    _counted("seq"),
    _number("time"),
    _text("actor"),
    _text("action"),
    _text("model", ""),
    _text("subject", ""),
    _text("before", ""),
    _text("after", ""),
    _text("why", ""),
    Index("audit_of_model", "model", "seq"),
    since=1,
    rows="kept",
)

#: ``model``: empty = all; ``events``: actions of the audit log, empty = all.
WEBHOOK: Final = _table(
    "webhook",
    ["id"],
    _text("id"),
    _text("url"),
    _text("model", ""),
    _json("events", "[]"),
    _text("secret"),
    _number("created"),
    _text("by"),
    since=1,
)

#: Owners of tokens; ``hash``: sha256 of the token, which is not stored.
TOKEN: Final = _table(
    "token",
    ["id"],
    _text("id"),
    _text("hash"),
    _text("name"),
    _json("roles", "[]"),
    _number("created"),
    _text("by"),
    Index("token_hash", "hash", unique=True),
    since=1,
)

#: Pending and finished deliveries to webhooks; written with the change itself.
DELIVERY: Final = _table(
    "delivery",
    ["id"],
    _counted("id"),
    _text("webhook"),
    _whole("audit"),
    _text("body"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _number("due"),
    _maybe("done"),
    _text("error", ""),
    ForeignKeyConstraint(["audit"], ["audit.seq"]),
    Index("delivery_due", "done", "due"),
    since=1,
)

# Access.

#: Keys of callers. ``hash``: of the key, which is not stored; ``body``: its record, which may get more fields
#: without a new table; ``last_use``: Unix seconds.
ACCESS_KEY: Final = _table(
    "access_key",
    ["id"],
    _text("id"),
    _text("name"),
    _text("hash"),
    _json("body"),
    _text("by"),
    _maybe("last_use"),
    Index("access_key_hash", "hash", unique=True),
    Index("access_key_name", "name"),
    since=6,
)

#: Number of changes of keys so far, by which servers see that there was one: a single row.
ACCESS_CHANGE: Final = _table("access_change", ["id"], _whole("id"), _whole("number"), since=6)

#: Limits of tenants, models and the server: a single row, of which ``body`` has all.
ACCESS_LIMITS: Final = _table("access_limits", ["id"], _whole("id"), _json("body"), since=8)

# Releases and their evidence.

#: ``stable`` and ``canary``: numbers of versions, as text; ``state``: see ``releases.ReleaseState``.
RELEASE: Final = _table(
    "release",
    ["id"],
    _text("id"),
    _text("model"),
    _text("stable"),
    _text("canary"),
    _text("alias"),
    _text("salt"),
    _json("policy"),
    _text("state"),
    Column("stage", Integer, nullable=False, server_default="0"),
    Column("weight", Double, nullable=False, server_default="0"),
    _json("evidence"),
    _json("progress"),
    Column("revision", Integer, nullable=False, server_default="0"),
    _text("reason", ""),
    _number("created"),
    _text("by"),
    _text("why", ""),
    _number("changed"),
    _maybe("ended"),
    Index("release_of_model", "model", "created"),
    since=2,
)

#: ``what``: start, pause, resume, promote or abort; ``done``: when a server processed it, with its
#: ``answer``.
WISH: Final = _table(
    "wish",
    ["id"],
    _counted("id"),
    _text("release"),
    _text("what"),
    _text("by"),
    _text("why", ""),
    _number("time"),
    _maybe("done"),
    _text("answer", ""),
    _of_release(),
    Index("wish_open", "done", "id"),
    since=2,
)

BUCKET: Final = _table(
    "bucket",
    ["release", "seq"],
    _text("release"),
    _whole("seq"),
    _json("body"),
    _of_release(),
    since=2,
    rows="kept",
)

#: ``inputs``: sha256 of the inputs of the decision.
DECISION: Final = _table(
    "decision",
    ["release", "seq"],
    _text("release"),
    _whole("seq"),
    _text("inputs"),
    _json("body"),
    _text("actor"),
    _number("time"),
    _of_release(),
    since=2,
    rows="kept",
)

#: First exposure of a unit in an arm, for a release that needs outcomes. ``unit``: its hash; ``is_first``: it
#: had been in no other arm, so that its outcome counts only here.
EXPOSURE: Final = _table(
    "exposure",
    ["release", "unit", "arm"],
    _text("release"),
    _whole("unit"),
    _text("arm"),
    Column("stage", Integer, nullable=False),
    _number("propensity"),
    _number("time"),
    Column("is_first", Integer, nullable=False),
    _json("segment"),
    _of_release(),
    Index("exposure_of_release", "release", "time"),
    since=2,
    rows="unchanged",
)

#: Units that a server saw before all others, one row per report: their hashes, eight bytes each (little
#: endian, signed). ``stage``: they are the first in this stage; -1 = in the release.
CROWD: Final = _table(
    "crowd",
    ["id"],
    _counted("id"),
    _text("release"),
    Column("units", LargeBinary, nullable=False),
    Column("stage", Integer, nullable=False, server_default="-1", info={"since": 5}),
    _of_release(),
    Index("crowd_of_release", "release", "id"),
    since=4,
    rows="unchanged",
)

#: First event of a metric for a unit.
FIRST_EVENT: Final = _table(
    "first_event",
    ["release", "metric", "unit"],
    _text("release"),
    _text("metric"),
    _whole("unit"),
    _text("arm"),
    _number("time"),
    _of_release(),
    since=2,
    rows="unchanged",
)

#: Blocks of time in a stage in which a unit had the event of a metric: their number, and the last one.
FAILING_UNIT: Final = _table(
    "failing_unit",
    ["release", "metric", "stage", "unit"],
    _text("release"),
    _text("metric"),
    Column("stage", Integer, nullable=False),
    _whole("unit"),
    _text("arm"),
    Column("blocks", Integer, nullable=False),
    _whole("last"),
    _of_release(),
    since=5,
)

#: Arm that answered a request, for its outcome; ``request``: hash of the request's id. Without a unit,
#: ``unit`` is the same.
PREDICTION: Final = _table(
    "prediction",
    ["request", "release"],
    _whole("request"),
    _text("release"),
    _text("arm"),
    _whole("unit"),
    Column("stage", Integer, nullable=False),
    _number("propensity"),
    _number("time"),
    _of_release(),
    Index("prediction_of_release", "release", "time"),
    Index("prediction_of_unit", "release", "unit"),
    since=2,
    rows="unchanged",
)

#: A server that counts a release: number of parts stored, and Unix seconds up to which it has reported.
#: Servers that have left are not waited for. ``ahead``: seconds that its clock is ahead of the database's.
WITNESS: Final = _table(
    "witness",
    ["release", "server"],
    _text("release"),
    _text("server"),
    _whole("parts"),
    _number("until"),
    Column("has_left", Integer, nullable=False, server_default="0"),
    Column("ahead", Double, nullable=False, server_default="0", info={"since": 5}),
    _of_release(),
    since=3,
)

#: Counts of a server in an interval, until they are judged in a bucket with those of others.
PART: Final = _table(
    "part",
    ["release", "server", "number"],
    _text("release"),
    _text("server"),
    _whole("number"),
    _json("body"),
    _of_release(),
    since=3,
)

#: ``key_kind``: ``prediction``, ``unit``, or ``all`` for a statement that everything up to ``event_time`` has
#: been posted; ``supersedes``: id of the outcome that this one corrects, with at most one correction each.
OUTCOME: Final = _table(
    "outcome",
    ["id"],
    _text("id"),
    _text("key_kind"),
    _whole("key"),
    _text("name"),
    _number("value"),
    _number("event_time"),
    _number("ingest_time"),
    _text("source", ""),
    Column("supersedes", Text, nullable=True),
    Index("outcome_of_key", "key_kind", "key", "name", "event_time"),
    Index("outcome_of_name", "name", "event_time"),
    Index("outcome_superseded", "supersedes", unique=True),
    since=2,
    rows="kept",
)

# What keys use.

#: Use of a key in an hour of a model, by all servers; ``hour``: Unix seconds of its beginning; ``model``:
#: empty = no model that is served.
USAGE_HOUR: Final = _table(
    "usage_hour",
    ["key", "model", "hour"],
    _text("key"),
    _text("model"),
    _whole("hour"),
    _whole("requests"),
    _whole("rows"),
    _whole("prompt_tokens"),
    _whole("answer_tokens"),
    _whole("bytes_in"),
    _whole("bytes_out"),
    _whole("compute_us"),
    _whole("refusals"),
    Index("usage_of_hour", "hour"),
    since=7,
)

#: Last batch of usage that a run of a server has written, so that none is added twice.
USAGE_FLUSH: Final = _table(
    "usage_flush", ["server"], _text("server"), _whole("number"), _number("time"), since=7
)

#: What a server was granted of a quota, and what it has used, as far as it has told; ``server``: empty =
#: what was used by servers that have ended; ``quota``: unit and span, as ``requests/day``; ``period``:
#: ``2026-11-30``.
QUOTA_USE: Final = _table(
    "quota_use",
    ["key", "quota", "period", "server"],
    _text("key"),
    _text("quota"),
    _text("period"),
    _text("server"),
    _whole("granted"),
    _whole("used"),
    since=7,
)

#: Servers that announce themselves; ``models``: names of those that they run; ``time``: of the announcement.
SERVER: Final = _table(
    "server", ["url"], _text("url"), _text("zone"), _json("models", "[]"), _number("time"), since=9
)
