"""Rows of other servers: Redis or Valkey, and a service that answers in JSON over HTTP."""

import http
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from salver.features.pipelines.lookups.source import Key, Query, Row, SourceFailed, SourceLate, no_package
from salver.stores.sources.connecting import HttpCall
from salver.words.errors import LoadFailed

_MOST: Final = 16 << 20  # bytes of an answer
_JSON: Final = {"content-type": "application/json", "accept": "application/json"}


class _Pipeline(Protocol):
    """The used part of a pipeline of ``redis.Redis``."""

    def hmget(self, name: str, keys: Sequence[str]) -> Any: ...

    def zrange(self, name: str, start: float, end: str, **options: Any) -> Any: ...

    def execute(self) -> list[Any]: ...


class _Client(Protocol):
    """The used part of ``redis.Redis``."""

    def pipeline(self, transaction: bool) -> _Pipeline: ...


class RedisSource:
    """Source of hashes by key; with times, of sorted sets of JSON objects whose scores are the times.

    All keys of a call go in one pipeline.

    Args:
        client: Client with time-outs of its own.
    """

    def __init__(self, client: _Client, query: Query) -> None:
        self._client = client
        self._query = query

    def __repr__(self) -> str:
        return "<RedisSource>"

    def rows(self, keys: Sequence[Key], seconds: float) -> Sequence[Row | None]:
        """See :class:`~salver.features.pipelines.lookups.source.Source`; the time-outs are the client's."""
        pipeline = self._client.pipeline(transaction=False)
        names, prefix = self._query.columns, self._query.table
        for key in keys:
            if self._query.time and key.at is not None:
                pipeline.zrange(
                    f"{prefix}{key.value}", key.at, "-inf", byscore=True, desc=True, offset=0, num=1
                )
            else:
                pipeline.hmget(f"{prefix}{key.value}", names)
        try:
            found = pipeline.execute()
        except TimeoutError as error:
            raise SourceLate("Redis gave no answer in time") from error
        except Exception as error:  # its texts may have the address and the name of the user
            if "Timeout" in type(error).__name__:
                raise SourceLate("Redis gave no answer in time") from None
            raise SourceFailed(f"Redis cannot be asked ({type(error).__name__})") from None
        if self._query.time:
            return [_of_members(members, names) for members in found]
        return [None if all(value is None for value in values) else tuple(values) for values in found]


def _of_members(members: Sequence[bytes], names: Sequence[str]) -> Row | None:
    if not members:
        return None
    try:
        table = msgspec.json.decode(members[0])
    except msgspec.DecodeError as error:
        raise SourceFailed("Redis has a member of a sorted set that is not JSON") from error
    return _row(table, names)


def _row(table: Any, names: Sequence[str]) -> Row | None:
    if table is None:
        return None
    if not isinstance(table, dict):
        raise SourceFailed("the source gave a row that is not an object")
    return tuple(table.get(name) for name in names)


def redis_source(url: str, query: Query, seconds: float) -> RedisSource:
    """Return the source at a URL.

    Raises:
        LoadFailed: the URL is none, or the package ``redis`` is not installed.
    """
    try:
        from redis import Redis
    except ImportError as error:
        raise no_package("redis", "redis") from error
    try:
        client = Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)
    except (ValueError, TypeError):
        raise LoadFailed("look-up: `source` is no URL of Redis", fix="Write redis://HOST:6379/0.") from None
    return RedisSource(client, query)


class HttpSource:
    """Source that is asked with ``POST {"keys": [...], "columns": [...]}`` and answers ``{"rows": [...]}``.

    ``at`` has the moments of the keys, in seconds since 1970. A row is an object, or null. Redirects are not
    followed, and an answer has at most 16 MiB.

    Args:
        url: With a name and a password, if there are any.
    """

    def __init__(self, url: str, query: Query, headers: Mapping[str, str]) -> None:
        self._url = url
        self._query = query
        self._headers = {**_JSON, **headers}

    def __repr__(self) -> str:
        return "<HttpSource>"

    def rows(self, keys: Sequence[Key], seconds: float) -> Sequence[Row | None]:
        """See :class:`~salver.features.pipelines.lookups.source.Source`."""
        asked: dict[str, Any] = {"keys": [key.value for key in keys], "columns": self._query.columns}
        if self._query.time:
            asked["at"] = [key.at for key in keys]
        call, is_late = HttpCall(seconds), threading.Event()

        def stop() -> None:
            is_late.set()
            call.cut()

        # The time-out of a socket begins anew with each packet.
        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            with call.ask(self._url, self._headers, msgspec.json.encode(asked)) as answer:
                status, content = answer.status, answer.read(_MOST + 1)
        except TimeoutError as error:
            raise SourceLate("the service gave no answer in time") from error
        except Exception as error:  # texts may repeat what was sent
            if is_late.is_set():
                raise SourceLate("the service gave no answer in time") from None
            raise SourceFailed(f"the service cannot be asked ({type(error).__name__})") from None
        finally:
            timer.cancel()
        if status != http.HTTPStatus.OK:
            raise SourceFailed(f"the service answered with the status {status}")
        return self._read(content, len(keys))

    def _read(self, content: bytes, count: int) -> Sequence[Row | None]:
        if len(content) > _MOST:
            raise SourceFailed(f"the service answered with more than {_MOST} bytes")
        try:
            rows = msgspec.json.decode(content)["rows"]
        except (msgspec.DecodeError, KeyError, TypeError):
            rows = None
        if not isinstance(rows, list) or len(rows) != count:
            raise SourceFailed('the service did not answer {"rows": […]} with a row for each key')
        return [_row(row, self._query.columns) for row in rows]
