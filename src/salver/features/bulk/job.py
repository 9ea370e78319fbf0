"""Resumable bulk job over a file of any size.

Reads blocks of rows, keeps a few requests in flight, and writes the answers in the order of the rows;
progress is recorded in a journal beside the output, so that the same call continues after an interruption. It
knows neither formats nor retries.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final

import msgspec
import orjson

from salver.client.client import Client
from salver.features.bulk.ask import Answer, BlockSender, Model
from salver.features.bulk.formats import make_writer, open_reader
from salver.features.bulk.journal import Journal, Mark, Parts, publish
from salver.features.bulk.plan import Job, check_job, fingerprint, make_plan
from salver.features.bulk.rows import BadRow, Block, Place, Reader, Writer
from salver.words.errors import Conflict, InvalidInput, SalverError

_MARK_EVERY_S: Final = 1.0
_HEARTBEAT_S: Final = 1.0
_NOWHERE: Final = Place()


class Progress(msgspec.Struct, frozen=True):
    """Progress of a job.

    Attributes:
        rows: Rows done, including earlier runs.
        skipped: Rows among them without an answer.
        resumed: Rows done by earlier runs.
        fraction: Fraction of the file, 0 to 1.
        retries: Number of retries.
        waiting: Why there is no progress at the moment, or empty.
        notes: Remarks of the reader, once, at the start.
    """

    rows: int
    skipped: int
    resumed: int
    fraction: float
    retries: int
    waiting: str = ""
    notes: tuple[str, ...] = ()


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a job.

    Attributes:
        model: Name of the model.
        version: Version that answered; empty if the server does not report versions.
        rows: Rows of the source.
        answered: Rows of the target.
        skipped: Rows without an answer; ``errors`` names them.
        resumed: Rows done by earlier runs.
        retries: Retries in this run.
        seconds: Duration of this run.
        rows_per_second: Rate of this run.
        target: The file of answers.
        errors: The file of skipped rows, or empty.
    """

    model: str
    version: str
    rows: int
    answered: int
    skipped: int
    resumed: int
    retries: int
    seconds: float
    rows_per_second: float
    target: str
    errors: str


async def run(
    client: Client,
    job: Job,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    mark_every: float = _MARK_EVERY_S,
) -> Summary:
    """Run a job, or continue an interrupted one.

    Args:
        client: Client of the server, with a long time-out, because bulk work waits behind all other work.
        job: The job.
        on_progress: Called after each block, and while the job waits for the server.
        mark_every: Seconds between two marks in the journal; work after the last mark is repeated after a
            crash.

    Raises:
        InvalidInput: file and model do not match, or a row is bad (``on_error="stop"``).
        Conflict: the target exists, is being written, or belongs to another job.
        SalverError: the server is unavailable; the same call continues later.
    """
    check_job(job)
    begun = time.monotonic()
    plan = make_plan(job, await client.metadata(job.model, job.version))
    reader = await asyncio.to_thread(open_reader, job.source, plan.inputs, job.keep)
    writer = make_writer(job.target, plan.outputs, job.keep, reader.kept_types)
    journal_path = _beside(job.target, "journal")
    if job.target.exists() and not job.restart and not journal_path.exists():
        raise Conflict(f"{job.target} is there already", fix="--restart replaces it.")
    journal = Journal.open(journal_path, plan.identity, restart=job.restart)
    try:
        asker = BlockSender(client, plan.model, job.patience)
        work = _Work(job, reader, writer, journal, mark_every)
        if not (journal.mark and journal.mark.done):
            await work.run(asker, plan.rows, on_progress)
        # Shielded: a target that is half assembled must not be left by Ctrl-C.
        finishing = asyncio.create_task(asyncio.to_thread(work.finish))
        try:
            await asyncio.shield(finishing)
        except asyncio.CancelledError:
            await finishing  # a thread cannot be stopped, and it needs the journal until its end
            raise
    except OSError as error:
        raise InvalidInput(
            f"the job from {job.source} to {job.target} stopped: {error.strerror or error}",
            fix="After fixing that, run the same command to continue.",
        ) from error
    finally:
        journal.close()
    return work.summary(plan.model, time.monotonic() - begun, asker.retries)


class _Work:
    """One run of a job, from the journal's last mark."""

    def __init__(self, job: Job, reader: Reader, writer: Writer, journal: Journal, mark_every: float) -> None:
        self._job, self._reader, self._writer, self._journal = job, reader, writer, journal
        self._mark_every = mark_every
        mark = journal.mark
        self._rows, self._bad = (mark.rows, mark.bad) if mark else (0, 0)
        self._resumed = self._rows
        self._place = mark.place if mark else _NOWHERE
        self._source = fingerprint(job.source)
        self._errors = _beside(job.target, "errors.jsonl")
        names = ["part", *(f"part{index}" for index in range(1, writer.parts))]
        self._paths = [_beside(job.target, name) for name in names]

    async def run(self, asker: BlockSender, rows: int, on_progress: Callable[[Progress], None]) -> None:
        """Answer the remaining rows; the last mark records that all is done."""
        parts = Parts([*self._paths, self._errors], self._journal.mark)
        try:
            parts.write([*self._writer.start(self._paths), b""])
            on_progress(self._progress(asker, tuple(self._reader.notes)))
            noted = time.monotonic()
            try:
                async with contextlib.aclosing(self._answered(asker, rows, on_progress)) as answered:
                    async for block, answers, bad in answered:
                        self._write(parts, block, answers, bad)
                        on_progress(self._progress(asker))
                        if time.monotonic() - noted >= self._mark_every:
                            self._mark(parts)
                            noted = time.monotonic()
            except (SalverError, asyncio.CancelledError):
                self._mark(parts)  # keep what is done
                raise
            if fingerprint(self._job.source) != self._source:
                raise Conflict(f"{self._job.source} has changed meanwhile", fix="Start over with --restart.")
            self._mark(parts, done=True)
        finally:
            with contextlib.suppress(OSError):  # a full disk has been reported already
                parts.close()

    async def _answered(
        self, asker: BlockSender, rows: int, on_progress: Callable[[Progress], None]
    ) -> AsyncGenerator[tuple[Block, list[Answer], list[BadRow]], None]:
        """Yield blocks in order with their answers, with a few requests in flight."""
        blocks = self._reader.blocks(self._place, rows)
        gate = asyncio.Semaphore(self._job.connections)
        waiting: deque[tuple[Block, asyncio.Task[tuple[list[Answer], list[BadRow]]]]] = deque()
        more = True
        try:
            while True:
                # Twice as many as in flight, so that reading never makes the server wait.
                while more and len(waiting) < 2 * self._job.connections:
                    block = await asyncio.to_thread(next, blocks, None)
                    if block is None:
                        more = False
                    else:
                        waiting.append((block, asyncio.create_task(self._ask(asker, gate, block))))
                if not waiting:
                    return
                block, task = waiting[0]
                while not task.done():
                    await asyncio.wait({task}, timeout=_HEARTBEAT_S)
                    if not task.done():
                        on_progress(self._progress(asker))
                waiting.popleft()
                yield block, *task.result()
        finally:
            tasks = [task for _, task in waiting]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(
        self, asker: BlockSender, gate: asyncio.Semaphore, block: Block
    ) -> tuple[list[Answer], list[BadRow]]:
        answers: list[Answer] = []
        bad = list(block.bad)
        if bad and self._job.on_error == "stop":
            return answers, bad
        for piece in block.pieces:
            async with gate:
                found, wrong = await asker.ask(piece)
            answers += found
            bad += wrong
        return answers, sorted(bad, key=lambda one: one.line)

    def _write(self, parts: Parts, block: Block, answers: list[Answer], bad: list[BadRow]) -> None:
        unit = self._reader.unit
        if bad and self._job.on_error == "stop":
            raise InvalidInput(
                f"{self._job.source}, {unit} {bad[0].line}: {bad[0].reason}",
                fix="Fix the file and start over with --restart, or skip such rows with --on-error skip.",
            )
        notes = b"".join(orjson.dumps({unit: b.line, "error": b.reason}) + b"\n" for b in bad)
        # Encoded whole before anything is written, so that an error leaves no half of a block.
        chunks = [self._writer.encode(answer.outputs, answer.piece.kept) for answer in answers]
        for chunk in chunks:
            parts.write([*chunk, b""])
        parts.write([*(b"" for _ in self._paths), notes])
        self._rows += sum(len(piece.lines) for piece in block.pieces) + len(block.bad)
        self._bad += len(bad)
        self._place = block.after

    def _mark(self, parts: Parts, *, done: bool = False) -> None:
        self._journal.add(Mark(self._rows, self._bad, self._place, parts.sync(), done))

    def _progress(self, asker: BlockSender, notes: tuple[str, ...] = ()) -> Progress:
        size = self._reader.size
        fraction = 1.0
        if size:
            fraction = min(self._place.at / size, 1.0)
        return Progress(self._rows, self._bad, self._resumed, fraction, asker.retries, asker.waiting, notes)

    def finish(self) -> None:
        """Assemble the target from its parts and remove them; can be repeated after a crash."""
        if self._paths[0].exists() or not self._job.target.exists():
            self._writer.start(self._paths)
            publish(self._writer.finish(self._paths), self._job.target)
        for path in self._paths:  # the first part first: without it the target is known to be complete
            path.unlink(missing_ok=True)
        more = len(self._paths)
        while (left := _beside(self._job.target, f"part{more}")).exists():  # left by a job with more arrays
            left.unlink()
            more += 1
        if not self._bad:
            self._errors.unlink(missing_ok=True)
        self._journal.remove()

    def summary(self, model: Model, seconds: float, retries: int) -> Summary:
        """Return the result of a finished job."""
        return Summary(
            model=model.name,
            version=model.version,
            rows=self._rows,
            answered=self._rows - self._bad,
            skipped=self._bad,
            resumed=self._resumed,
            retries=retries,
            seconds=seconds,
            rows_per_second=(self._rows - self._resumed) / seconds if seconds else 0.0,
            target=str(self._job.target),
            errors=str(self._errors) if self._bad else "",
        )


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f"{target.name}.{what}")
