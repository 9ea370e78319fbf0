"""Keys of a running server, over its management interface."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from salver.features.access.limit_book import DeclaredLimits
from salver.features.access.limits import LimitRules
from salver.features.keyring.key_changes import Author, KeyEdit, KeyWish, LimitChange, ShownKey
from salver.features.keyring.key_ring import MadeKey
from salver.words.errors import NotFound, Unsupported

if TYPE_CHECKING:
    from salver.client import Client

T = TypeVar("T")


class _ListedKeys(msgspec.Struct, frozen=True):
    items: tuple[ShownKey, ...]
    next: str = ""


_read_list: Final = msgspec.json.Decoder(_ListedKeys).decode
_read_key: Final = msgspec.json.Decoder(ShownKey).decode
_read_limits: Final = msgspec.json.Decoder(DeclaredLimits).decode
_read_made: Final = msgspec.json.Decoder(MadeKey).decode


class RemoteKeys:
    """Keys of a server: see :class:`~salver.features.keyring.key_ring.Keys`.

    The server knows the author by the key or token of the client.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RemoteKeys of {self._client!r}>"

    async def list(self) -> Sequence[ShownKey]:
        """Return all keys."""
        found: list[ShownKey] = []
        after = ""
        while True:
            query = urlencode({"limit": 1000, **({"after": after} if after else {})})
            page = await self._ask(_read_list, "GET", f"/keys?{query}")
            found += page.items
            after = page.next
            if not after:
                return found

    async def show(self, key: str) -> ShownKey:
        """Return a key."""
        return await self._ask(_read_key, "GET", _at(key))

    async def create(self, wish: KeyWish, author: Author) -> MadeKey:
        """Make a key."""
        return await self._ask(_read_made, "POST", "/keys", msgspec.to_builtins(wish))

    async def rotate(self, key: str, overlap: str, author: Author) -> MadeKey:
        """Replace a key."""
        return await self._ask(_read_made, "POST", f"{_at(key)}/rotate", {"overlap": overlap, **_why(author)})

    async def revoke(self, key: str, author: Author) -> ShownKey:
        """Revoke a key."""
        return await self._ask(_read_key, "DELETE", _at(key), _why(author))

    async def limit(self, key: str, limits: LimitRules | None, author: Author) -> ShownKey:
        """Change the limits of a key."""
        rules = None if limits is None else msgspec.to_builtins(limits)
        return await self._ask(_read_key, "PUT", f"{_at(key)}/limits", {"limits": rules, **_why(author)})

    async def edit(self, key: str, edit: KeyEdit, author: Author) -> ShownKey:
        """Change scopes, expiry, owner or note of a key."""
        return await self._ask(_read_key, "PUT", _at(key), msgspec.to_builtins(edit))

    async def declared(self) -> DeclaredLimits:
        """Return the limits of tenants, models and the server."""
        return await self._ask(_read_limits, "GET", "/limits")

    async def declare(self, change: LimitChange, author: Author) -> DeclaredLimits:
        """Change one of them."""
        body = msgspec.to_builtins(change._asdict())
        return await self._ask(_read_limits, "PUT", "/limits", {**body, **_why(author)})

    async def _ask(
        self, read: Callable[[bytes], T], verb: str, path: str, body: dict[str, Any] | None = None
    ) -> T:
        try:
            answer = await self._client.api(verb, path, body)
        except NotFound as error:
            if "there is no /api/" not in error.message:
                raise
            raise Unsupported(
                "this server has no keys that can be changed from afar",
                fix="Start it with --registry, or with --keys-file.",
            ) from error
        try:
            return read(answer)
        except msgspec.DecodeError as error:
            raise Unsupported(f"the server answers as another version does: {error}") from error


def _at(key: str) -> str:
    return f"/keys/{quote(key, safe='')}"


def _why(author: Author) -> dict[str, str]:
    return {"reason": author.why} if author.why else {}
