"""Is a copy of a ledger one state of it, and does it come back whole, from either kind into either?"""

import asyncio
from pathlib import Path

import pytest
from databases import empty_ledger
from sqlalchemy import Connection, func, insert, select

from salver.features.ledger.copying import copy_in, copy_out
from salver.features.ledger.faults import LedgerFailed
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import AUDIT, BUCKET, METADATA, MODEL, RELEASE
from salver.words.errors import Conflict

KINDS = ("sqlite", "postgresql")


def pair(connection: Connection) -> None:
    """A model and the line of the audit that belongs to it: never one without the other."""
    number = connection.scalar(select(func.count()).select_from(MODEL))
    name = f"m{number:04d}"
    connection.execute(insert(MODEL), {"name": name, "created": 0.1 + 0.2, "by": "ann", "last_number": 0})
    connection.execute(insert(AUDIT), {"time": 1.5, "actor": "ann 🚀", "action": "made", "model": name})


def release(connection: Connection) -> None:
    row = {
        "id": "r1", "model": "m0000", "stable": "1", "canary": "2", "alias": "champion", "salt": "s",
        "state": "RUNNING", "created": 1.0, "by": "ann", "changed": 1.0,
    }  # fmt: skip
    connection.execute(insert(RELEASE), row)
    for seq in range(2500):  # more than are copied at a time
        connection.execute(insert(BUCKET), {"release": "r1", "seq": seq, "body": "{}"})


def everything(connection: Connection) -> dict[str, list[object]]:
    return {
        table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
        for table in METADATA.sorted_tables
    }


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
async def test_a_copy_made_while_others_write_is_whole_and_counts_on(
    source: str, target: str, tmp_path: Path
) -> None:
    file = tmp_path / "copy.db"
    (tmp_path / "new").mkdir()
    async with await Ledger.open(empty_ledger(source, tmp_path)) as ledger:
        for work in (pair, release):
            await ledger.write(work)
        is_over = asyncio.Event()

        async def load() -> int:
            writes = 0
            while not is_over.is_set():
                await ledger.write(pair)
                writes += 1
            return writes

        writing = asyncio.create_task(load())
        await ledger.write(pair)
        await copy_out(ledger, file)
        is_over.set()
        assert await writing > 0

    async with await Ledger.open(empty_ledger(target, tmp_path / "new")) as restored:
        await copy_in(file, restored)
        there = await restored.read(everything)
        async with await Ledger.open(f"sqlite:///{file}") as copied:
            assert await copied.read(everything) == there
        models, lines = there["model"], there["audit"]
        assert len(models) == len(lines) >= 2  # one state: both or none of a pair
        assert len(there["bucket"]) == 2500
        await restored.write(pair)  # numbers go on after those that were copied
        assert await restored.read(lambda c: c.scalar(select(func.max(AUDIT.c.seq)))) > len(lines)


@pytest.mark.parametrize("target", KINDS)
async def test_a_ledger_with_rows_is_not_written_over(target: str, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    file = tmp_path / "copy.db"
    async with await Ledger.open(empty_ledger("sqlite", tmp_path)) as ledger:
        await ledger.write(pair)
        await copy_out(ledger, file)
    async with await Ledger.open(empty_ledger(target, tmp_path / "new")) as other:
        await other.write(release)
        before = await other.read(everything)
        with pytest.raises(Conflict, match=r"has rows in release already.*Restore into an empty one"):
            await copy_in(file, other)
        assert await other.read(everything) == before


async def test_a_file_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    async with await Ledger.open(empty_ledger("sqlite", tmp_path)) as ledger:
        with pytest.raises(LedgerFailed, match=r"copy\.db cannot be written"):
            await copy_out(ledger, tmp_path / "none" / "copy.db")
        (tmp_path / "text.db").write_text("no database, but long enough to be taken for one. " * 40)
        with pytest.raises(LedgerFailed, match="Name another file"):
            await copy_in(tmp_path / "text.db", ledger)
