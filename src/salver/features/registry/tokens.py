"""Access tokens; only their hashes are stored."""

import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from sqlalchemy import Connection, delete, insert, select

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import TOKEN
from salver.features.registry.audit import Change, record
from salver.features.registry.names import check_key
from salver.features.registry.records import Actor, Token
from salver.words.errors import Forbidden, NotFound, Unauthenticated

_PREFIX: Final = "salver_"
_BYTES: Final = 32


class Tokens:
    """The tokens of a registry.

    Anybody with write access to the ledger may create tokens until one has the role ``admin``; then only
    admins may.

    Args:
        clock: Unix seconds.
        new_id: Returns a unique id.
        random: Returns that many secure random bytes.
    """

    #: Role that may create tokens.
    ADMIN: Final = "admin"

    def __init__(
        self,
        ledger: Ledger,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        random: Callable[[int], bytes],
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._new_id = new_id
        self._random = random

    def __repr__(self) -> str:
        return f"<Tokens of {self._ledger!r}>"

    async def make(self, name: str, roles: Iterable[str], actor: Actor) -> tuple[Token, str]:
        """Create a token; return its text, which is not shown again.

        Raises:
            InvalidInput: the name or role is not allowed.
            Forbidden: only admins may create tokens.
        """
        wanted = tuple(sorted({check_key(role, "role") for role in roles}))
        token = Token(self._new_id(), check_key(name, "token's owner"), wanted, self._clock(), actor.name)
        text = _PREFIX + base64.urlsafe_b64encode(self._random(_BYTES)).decode().rstrip("=")

        def work(connection: Connection) -> None:
            self._check(connection, actor)
            row = msgspec.structs.asdict(token) | {"roles": msgspec.json.encode(wanted).decode()}
            connection.execute(insert(TOKEN), row | {"hash": _hash(text)})
            change = Change(actor, token.created)
            record(connection, change, "token.made", "", f"{token.id} {name}", "", ", ".join(wanted))

        await self._ledger.write(work)
        return token, text

    async def list(self) -> tuple[Token, ...]:
        """Return all tokens, the oldest first."""
        columns = [column for column in TOKEN.columns if column is not TOKEN.c.hash]

        def work(connection: Connection) -> tuple[Token, ...]:
            found = connection.execute(select(*columns).order_by(TOKEN.c.created, TOKEN.c.id)).mappings()
            return tuple(Token(**{**row, "roles": tuple(msgspec.json.decode(row["roles"]))}) for row in found)

        return await self._ledger.read(work)

    async def revoke(self, id: str, actor: Actor) -> None:
        """Revoke a token. Raises NotFound, Forbidden."""
        change = Change(actor, self._clock())

        def work(connection: Connection) -> None:
            self._check(connection, actor)
            name = connection.scalar(select(TOKEN.c.name).where(TOKEN.c.id == id))
            if name is None:
                raise NotFound(f"there is no token {id!r}", fix="List: salver registry token list.")
            connection.execute(delete(TOKEN).where(TOKEN.c.id == id))
            record(connection, change, "token.revoked", "", f"{id} {name}")

        await self._ledger.write(work)

    async def actor(self, text: str) -> Actor:
        """Return the owner of a token.

        Raises:
            Unauthenticated: the token is unknown.
        """
        query = select(TOKEN.c.name, TOKEN.c.roles).where(TOKEN.c.hash == _hash(text))
        row = await self._ledger.read(lambda c: c.execute(query).first())
        if row is None:
            raise Unauthenticated("this token is unknown to the registry", fix="Ask for a new one.")
        return Actor(row.name, frozenset(msgspec.json.decode(row.roles)))

    def _check(self, connection: Connection, actor: Actor) -> None:
        if self.ADMIN in actor.roles:
            return
        known = connection.scalars(select(TOKEN.c.roles))
        if any(self.ADMIN in msgspec.json.decode(roles) for roles in known):
            raise Forbidden(
                f"{actor.name} may not create or revoke tokens",
                fix=f"Use one that has the role {self.ADMIN}.",
            )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
