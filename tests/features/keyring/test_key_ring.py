"""Any sequence of changes: which keys are valid then, and what is left of their limits."""

import asyncio
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from salver.features.access.charge import RunCharge
from salver.features.access.key_table import KeyTable
from salver.features.access.keys_file import KeyRecord, table
from salver.features.access.limits import LimitRules
from salver.features.keyring.key_changes import Author, Deed, KeyWish, Stored, find, moment_of
from salver.features.keyring.key_ring import KeyRing
from salver.words.errors import Conflict, RateLimited, Unidentified

ANN = Author("ann")
#: A deed, the number of the key that it is about, and minutes.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "rotate", "create", "revoke", "limit", "wait"]),
        st.integers(0, 2),
        st.sampled_from([1, 30, 60, 90]),
    ),
    min_size=3,
    max_size=25,
)


class HeldKeys:
    """Records in memory."""

    def __init__(self) -> None:
        self.records: list[KeyRecord] = []

    async def read(self) -> Sequence[Stored]:
        return list(map(Stored, self.records))

    async def find(self, key: str) -> Stored:
        return find(await self.read(), key)

    async def add(self, record: KeyRecord, author: Author) -> bool:
        self.records.append(record)
        return len(self.records) == 1

    async def change(
        self, key: str, deed: Deed, author: Author, work: Callable[[KeyRecord], KeyRecord]
    ) -> Stored:
        old = (await self.find(key)).record
        new = work(old)
        self.records[self.records.index(old)] = new
        return Stored(new)


class Holder:
    """What a caller knows of its key: when each secret ends, and how often it may still ask."""

    def __init__(self, id: str, secret: str, end: float, left: int) -> None:
        self.id = id
        self.ends = {secret: end}
        self.secret = secret
        self.end = end
        self.left = left
        self.most = left


class World:
    """A ring, a server's table, and a clock of minutes; limits of an hour never give anything back here."""

    def __init__(self) -> None:
        self.now = 0.0
        self.held = HeldKeys()
        self.ring = KeyRing(self.held, lambda: moment_of(60 * self.now))
        self.table = KeyTable(lambda: 60 * self.now, lambda: 0, b"")
        self.holders: list[Holder] = []

    async def do(self, deed: str, number: int, minutes: int) -> None:
        if deed == "wait":
            self.now += minutes
        elif deed == "create" or not self.holders:
            wish = KeyWish(name="a", expires=f"{4 * minutes}m", limits=LimitRules(f"{number + 1}/h"))
            made = await self.ring.create(wish, ANN)
            end = self.now + 4 * minutes
            self.holders.append(Holder(made.key.id, made.secret, end, number + 1))
        else:
            await self.change(deed, self.holders[number % len(self.holders)], minutes)
        self.table.replace(table(self.held.records), "ledger")

    async def change(self, deed: str, holder: Holder, minutes: int) -> None:
        is_valid = self.now < holder.end
        try:
            if deed == "rotate":
                made = await self.ring.rotate(holder.id, f"{minutes}m", ANN)
                holder.ends = {holder.secret: min(holder.end, self.now + minutes), made.secret: holder.end}
                holder.secret = made.secret
            elif deed == "revoke":
                await self.ring.revoke(holder.id, ANN)
                holder.end, holder.ends, is_valid = self.now, {}, True
            elif deed == "limit":
                await self.ring.limit(holder.id, LimitRules(f"{minutes}/h"), ANN)
                if minutes != holder.most:
                    holder.left = holder.most = minutes
            elif is_valid and holder.left:
                holder.left -= 1
                self.ask(holder.secret, charges=True)
            assert is_valid or deed == "ask"
        except Conflict:
            assert not is_valid

    def ask(self, secret: str, *, charges: bool = False) -> str:
        try:
            grant = self.table.admit([(b"x-api-key", secret.encode())], "infer", "m", is_later=False)
        except Unidentified:
            return "unknown"
        except RateLimited:
            return "limited"
        if charges:
            assert grant is not None
            charge = grant.begin("m")
            assert isinstance(charge, RunCharge)
            if charge.has_limits:
                assert charge.weigh(1, "")
            charge.leave()
        return "admitted"


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_a_key_is_valid_until_it_ends_and_has_one_budget(steps: list[tuple[str, int, int]]) -> None:
    async def follow() -> None:
        world, secrets = World(), dict[str, Holder]()
        for step in steps:
            await world.do(*step)
            secrets |= {secret: holder for holder in world.holders for secret in holder.ends}
            for secret, holder in secrets.items():
                expected = "unknown"
                if world.now < holder.ends.get(secret, 0.0):
                    expected = "admitted" if holder.left else "limited"
                assert world.ask(secret) == expected, step

    asyncio.run(follow())
