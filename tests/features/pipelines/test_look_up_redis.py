"""Look-up in a real Redis: over TLS with a password, at a time, when it stalls, and after a restart."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
import trustme
from certificates import files_of
from programs import program
from waiting import PATIENCE_S, until

from salver.features.pipelines.steps.look_up import LookUp
from salver.testing.process import free_port
from salver.words.errors import DeadlineExceeded, ModelFailed

SECRET = "hunter2"
COLUMNS = {"price": "number", "plan": "text"}


class Redis:
    """Server that takes TLS only, and whose port stays when it is started again."""

    def __init__(self, folder: Path) -> None:
        certificate, key = files_of(trustme.CA(), folder)
        self.port, self.folder = free_port(), folder
        self.authority = folder / "ca.pem"
        options = {
            "port": 0, "tls-port": self.port, "bind": "127.0.0.1", "dir": folder, "save": "",
            "requirepass": SECRET, "tls-auth-clients": "no",
            "tls-cert-file": certificate, "tls-key-file": key,
        }  # fmt: skip
        self._words = [program("redis-server")]
        for name, value in options.items():
            self._words += [f"--{name}", str(value)]
        self.start()

    @property
    def source(self) -> str:
        return f"rediss://:${{SALVER_TEST_SECRET}}@127.0.0.1:{self.port}/0?ssl_ca_certs={self.authority}"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._words, stdout=log, stderr=log)
        self.client = redis.Redis.from_url(self.source.replace("${SALVER_TEST_SECRET}", SECRET))

        def answers() -> bool:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(redis.RedisError):
                return bool(self.client.ping())
            return False

        until(answers)
        self.client.hset("c:a", mapping={"price": "1.5", "plan": "x"})
        for since, price in ((0.0, 1.0), (6.0, 2.0)):
            self.client.zadd("t:a", {json.dumps({"price": price, "plan": "ü"}): since})

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    running = Redis(tmp_path_factory.mktemp("redis"))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALVER_TEST_SECRET", SECRET)


def run_of(source: str, folder: Path, table: str = "c:", **options: object):  # type: ignore[no-untyped-def]
    settings = {"timeout_ms": 60_000, "missing": "null", **options}
    return LookUp(source=source, key="id", columns=COLUMNS, table=table, **settings).open_many(folder)  # type: ignore[arg-type]


def asked(run, *keys: str, at: object = None):  # type: ignore[no-untyped-def]
    arrays = {"id": np.array([key.encode() for key in keys], object)}
    if at is not None:
        arrays["at"] = np.array(at)
    (found,) = run([arrays])
    if isinstance(found, Exception):
        raise found
    return found["price"].tolist(), found["plan"].tolist()


def test_rows_over_tls(server: Redis, tmp_path: Path) -> None:
    prices, plans = asked(run_of(server.source, tmp_path), "a", "none", "a")
    assert prices[::2] == [1.5, 1.5] and np.isnan(prices[1]) and plans[::2] == [b"x", b"x"]
    timed = run_of(server.source, tmp_path, "t:", time="since")
    prices, plans = asked(timed, "a", "a", "a", at=[5.9, 6.0, -1.0])
    assert prices[:2] == [1.0, 2.0] and np.isnan(prices[2]) and plans[0] == "ü".encode()


@pytest.mark.parametrize("wrong", ["authority", "password"])
def test_who_is_not_let_in_is_told_no_secret(
    wrong: str, server: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = server.source
    if wrong == "authority":
        source = source.partition("?")[0]
    else:
        monkeypatch.setenv("SALVER_TEST_SECRET", "wrong-hunter")
    with pytest.raises(ModelFailed, match="Redis cannot be asked") as caught:
        asked(run_of(source, tmp_path), "a")
    assert "hunter" not in str(caught.value)


def test_a_server_that_stalls_is_late_and_one_that_was_restarted_answers(
    server: Redis, tmp_path: Path
) -> None:
    run = run_of(server.source, tmp_path, timeout_ms=1000)
    until(lambda: answered(run))
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            asked(run, "a")
    finally:
        server.process.send_signal(signal.SIGCONT)
    until(lambda: answered(run))
    server.client.client_kill_filter(_type="normal", skipme=True)
    assert asked(run, "a")[0] == [1.5]  # on a new connection
    server.stop()
    with pytest.raises(ModelFailed):
        asked(run, "a")
    server.start()
    until(lambda: answered(run))


def answered(run: object) -> bool:
    with contextlib.suppress(ModelFailed, DeadlineExceeded):
        return asked(run, "a")[0] == [1.5]
    return False
