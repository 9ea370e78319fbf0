"""Response cache in a Redis (or Valkey) server, shared by several servers.

Values expire, because a server cannot know what others still serve; the Redis server's own ``maxmemory``
limits them. Values are bytes, checked when read, and never code.
"""

import os
from collections.abc import Mapping
from typing import Any, Final, Protocol

from salver.features.cache.options import only
from salver.words.errors import InvalidInput, Unsupported

_PREFIX: Final = b"salver:"
_MAX_BYTES: Final = 64 << 20
#: Options and their defaults; ``ttl_seconds``: lifetime of a value; ``timeout_ms``: time-out of a call.
DEFAULTS: Final[Mapping[str, str]] = {
    "host": "127.0.0.1",
    "port": "6379",
    "db": "0",
    "user": "",
    "password": "",
    "tls_enabled": "false",
    "ttl_seconds": "3600",
    "timeout_ms": "100",
}


class _Client(Protocol):
    """The used part of ``redis.asyncio.Redis``."""

    async def get(self, name: bytes) -> bytes | None: ...

    async def set(self, name: bytes, value: bytes, *, ex: int) -> Any: ...

    async def aclose(self) -> None: ...


class RedisCache:
    """Values in a Redis server.

    Args:
        client: Client of the server, with its own time-outs.
        ttl: Lifetime of a value in seconds.
    """

    max_bytes = _MAX_BYTES

    def __init__(self, client: _Client, ttl: int) -> None:
        self._client = client
        self._ttl = ttl

    def __repr__(self) -> str:
        return f"<RedisCache {self._client!r}>"

    async def lookup(self, key: bytes) -> bytes | None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        return await self._client.get(_PREFIX + key)

    async def insert(self, key: bytes, value: bytes) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        if len(value) <= self.max_bytes:
            await self._client.set(_PREFIX + key, value, ex=self._ttl)

    async def forget(self, owner: bytes) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`; others may still serve the version."""

    async def close(self) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        await self._client.aclose()


def redis(options: Mapping[str, str]) -> RedisCache:
    """Return the cache for ``redis,host=…,port=…``; the password may be in ``TRITONCACHE_REDIS_PASSWORD``.

    Raises:
        InvalidInput: an option is unknown or invalid.
        Unsupported: the package ``redis`` is not installed.
    """
    only(options, "redis", DEFAULTS)
    told = {**DEFAULTS, **options}
    seconds = _whole(told, "timeout_ms") / 1000
    try:
        from redis.asyncio import Redis
    except ImportError as error:
        raise Unsupported(
            "the cache 'redis' needs the package 'redis', which is not installed",
            fix="Install it with: pip install 'salver[redis]'",
        ) from error
    client = Redis(
        host=told["host"],
        port=_whole(told, "port"),
        db=_whole(told, "db", least=0),
        username=told["user"] or os.environ.get("TRITONCACHE_REDIS_USERNAME") or None,
        password=told["password"] or os.environ.get("TRITONCACHE_REDIS_PASSWORD") or None,
        ssl=told["tls_enabled"].lower() in ("true", "1", "on"),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
    )
    return RedisCache(client, _whole(told, "ttl_seconds"))


def _whole(told: Mapping[str, str], key: str, least: int = 1) -> int:
    text = told[key]
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise InvalidInput(f"{key} {text!r} of the cache 'redis' is not an integer of at least {least}")
    return int(text)
