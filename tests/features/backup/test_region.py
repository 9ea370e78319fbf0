"""The drill of a lost region, by the commands of the runbook: what site A acknowledged is at site B."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fork_server
import psycopg
import pytest
from databases import own_server
from registries import ANN
from soaking import size
from sqlalchemy import select
from waiting import PATIENCE_S, until

from salver.features.ledger.schema import OUTCOME
from salver.features.registry.command_options import new_id, now
from salver.features.registry.names import parse
from salver.features.registry.opening import home_of, open_registry
from salver.testing.process import ServerProcess
from salver.words.errors import SalverError

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "runbook.md"
CALLERS = 4
WRITES = size(400, 40)
MODEL = """class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}

    def predict(self, inputs):
        return {"y": inputs["x"] * 2}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """That every user can reach."""
    made = Path(tempfile.mkdtemp(prefix="salver-region-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


class Sites:
    """Two sites, and a shell in which the commands of the page run."""

    def __init__(self, folder: Path, site_a: str, programs: Path, user: str | None) -> None:
        self.folder, self.a = folder, site_a
        self.b = re.sub(r"host=[^&]*", f"host={folder / 'b'}", site_a)
        (folder / "b").mkdir()
        if user:  # PostgreSQL refuses to run as root
            shutil.chown(folder / "b", user)
        commands = folder / "commands"
        commands.mkdir()
        fork_server.write_command(commands)
        as_user = f"setpriv --reuid={user} --clear-groups " if user else ""
        for name in ("pg_basebackup", "pg_ctl", "psql"):
            (commands / name).write_text(f'#!/bin/sh\nexec {as_user}{programs / name} "$@"\n')
            (commands / name).chmod(0o755)
        own = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "SITE_A": self.a, "SITE_B": self.b}
        places = {
            "DATA_B": "b/data",
            "LOG_B": "b/log",
            "FILES_A": "a",
            "FILES_B": "files",
        }
        self._environment = {
            **os.environ,
            **own,
            **{name: str(folder / path) for name, path in places.items()},
        }

    def run(self, text: str) -> str:
        with tempfile.TemporaryFile("w+") as log:  # a pipe would stay open in what goes on to run
            done = subprocess.run(
                ["bash", "-euc", text],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE_S,
            )
            log.seek(0)
            printed = log.read()
        assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{printed}"
        return printed

    def serving(self, ledger: str, files: str) -> ServerProcess:
        options = ("--registry", ledger, "--artifacts", str(self.folder / files))
        return ServerProcess([], self.folder / f"{files}.log", options)

    def drop(self) -> None:
        self.run('pg_ctl --pgdata "$DATA_B" --mode immediate stop')


def block(name: str) -> str:
    """The commands of a block of the page."""
    (found,) = re.findall(
        rf"^<!-- test_region: {name} -->\n```bash\n(.*?)^```", PAGE.read_text(), re.M | re.S
    )
    return str(found)


def repeated(server: ServerProcess, posted: list[int], first: int) -> threading.Thread:
    """A thread that posts outcomes until one fails; the number of each is noted when it was acknowledged."""

    def work() -> None:
        number = first
        with contextlib.suppress(OSError, http.client.HTTPException):
            while post(server, number)[0] == 200:
                posted.append(number)
                number += CALLERS

    thread = threading.Thread(target=work)
    thread.start()
    return thread


async def tagging(sites: Sites, tagged: list[int]) -> None:
    """Change the registry of site A until that fails."""
    registry = await open_registry(home_of(sites.a, str(sites.folder / "a")), now, new_id)
    async with registry.ledger:
        with contextlib.suppress(SalverError):
            while True:
                await registry.tag(parse("double/1"), {f"t{len(tagged)}": "x"}, ANN)
                tagged.append(len(tagged))


async def state_of_b(sites: Sites) -> tuple[set[str], set[str]]:
    """The outcomes and the tags in the ledger of site B."""
    registry = await open_registry(home_of(sites.b, str(sites.folder / "files")), now, new_id)
    async with registry.ledger:
        outcomes = await registry.ledger.read(lambda c: set(c.scalars(select(OUTCOME.c.id))))
        return outcomes, set((await registry.version(parse("double/1"))).tags)


def test_what_a_lost_site_acknowledged_is_at_the_other(folder: Path) -> None:
    with own_server(folder) as postgres:
        with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
            for name, value in (
                ("listen_addresses", ""),
                ("unix_socket_directories", folder / "b"),
                ("fsync", "off"),
            ):
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")  # for site B, which copies them
        sites = Sites(folder, postgres.get_uri(), postgres.bin_path, postgres.system_user)
        (folder / "double.py").write_text(MODEL)
        sites.run(
            "salver registry push double.py --name double --unloaded "
            '--registry "$SITE_A" --artifacts "$FILES_A"'
        )
        sites.run(block("follow"))
        try:
            look = """psql "$SITE_A" -Atc 'SELECT sync_state FROM pg_stat_replication'"""
            until(lambda: sites.run(look) == "sync\n")
            sites.run(block("files"))
            posted, tagged = lose_site_a(sites, postgres.get_pid())
            *before, serve = block("promote").splitlines()
            sites.run("\n".join(before))
            assert serve == 'salver serve --registry "$SITE_B" --artifacts "$FILES_B"'
            with sites.serving(sites.b, "files") as server:
                server.wait_ready()
                assert server.post("/v2/models/double/infer", {"x": [1.5]}) == (200, {"y": [3.0]})
                assert json.loads(post(server, 0)[1])["duplicates"] == 1
            outcomes, tags = asyncio.run(state_of_b(sites))
            assert {f"o{number}" for number in posted} <= outcomes
            assert {f"t{number}" for number in tagged} <= tags
        finally:
            sites.drop()


def post(server: ServerProcess, number: int) -> tuple[int, bytes]:
    told = {"id": f"o{number}", "name": "sale", "unit": f"u{number}", "value": number, "time": 1.0}
    body = json.dumps({"outcomes": [told]}).encode()
    return server.ask("POST", "/api/v1/outcomes", body, {"content-type": "application/json"})


def lose_site_a(sites: Sites, postgres: int | None) -> tuple[list[int], list[int]]:
    """Kill PostgreSQL and the server of site A while they write; return what they had acknowledged."""
    posted: list[int] = []
    tagged: list[int] = []
    assert postgres is not None
    with sites.serving(sites.a, "a") as server:
        server.wait_ready()
        threads = [repeated(server, posted, first) for first in range(CALLERS)]
        threads.append(threading.Thread(target=lambda: asyncio.run(tagging(sites, tagged))))
        threads[-1].start()
        until(
            lambda: min(len(posted), len(tagged)) >= WRITES,
            lambda: (len(posted), len(tagged), server.output()),
        )
        os.kill(postgres, signal.SIGKILL)
        server.signal(signal.SIGKILL)
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
    shutil.rmtree(sites.folder / "a")
    return posted, tagged
