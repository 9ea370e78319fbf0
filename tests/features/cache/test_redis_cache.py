"""Answers that servers share: the promises, the settings, and two servers on one Redis."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import numpy as np
import pytest
import tritonclient.http as triton_http
from waiting import PATIENCE_S
from zoo import mlp_answer, write_mlp

from salver.features.cache.ports import OWNER_BYTES, ResponseCache
from salver.features.cache.redis import RedisCache, redis
from salver.testing.caches import CacheConformance, key
from salver.testing.process import ServerProcess, free_port
from salver.words.errors import InvalidInput


class TestRedisCache(CacheConformance):
    async def open_cache(self) -> ResponseCache:
        return RedisCache(fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer()), 60)


@pytest.mark.clause("TR-S10")
async def test_values_stay_for_others_when_a_version_goes_and_leave_in_time():
    client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    cache = RedisCache(client, 60)
    await cache.insert(key(1, 1), b"x")
    await cache.forget(key(1, 1)[:OWNER_BYTES])
    assert await cache.lookup(key(1, 1)) == b"x"
    assert 0 < await client.ttl(b"salver:" + key(1, 1)) <= 60
    await cache.insert(key(1, 2), bytes(cache.max_bytes + 1))
    assert await cache.lookup(key(1, 2)) is None
    await cache.close()


@pytest.mark.clause("TR-F9")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hots": "a"}, "has no setting 'hots'"),
        ({"port": "x"}, "port 'x' of the cache 'redis' is not an integer of at least 1"),
        ({"ttl_seconds": "0"}, "is not an integer of at least 1"),
        ({"db": "-1"}, "is not an integer of at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, str], text: str):
    with pytest.raises(InvalidInput, match=text):
        redis(options)


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that speaks Redis' protocol."""
    number = free_port()
    server = fakeredis.TcpFakeServer(("127.0.0.1", number), server_type="redis")
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield number
    server.shutdown()
    server.server_close()
    serving.join(PATIENCE_S)


def hits(server: ServerProcess) -> float:
    lines = server.get("/metrics")[1].decode().splitlines()
    (line,) = [line for line in lines if line.startswith('nv_cache_num_hits_per_model{model="mlp"')]
    return float(line.rsplit(" ", 1)[1])


@pytest.mark.clause("TR-F9", "TR-S10")
def test_two_servers_share_their_answers(port: int, tmp_path: Path):
    write_mlp(tmp_path / "models" / "mlp", 1)
    (tmp_path / "models" / "mlp" / "salver.toml").write_text("response_cache = true\n")
    rows = np.ones((2, 16), np.float32)
    given = triton_http.InferInput("x", [2, 16], "FP32")
    given.set_data_from_numpy(rows)
    options = ["--response-cache", f"redis,port={port},timeout_ms=5000"]
    for number in (1, 2):
        with ServerProcess([tmp_path / "models"], tmp_path / f"log{number}", options) as server:
            server.wait_ready()
            with triton_http.InferenceServerClient(server.address) as client:
                answer = client.infer("mlp", [given]).as_numpy("y")
            np.testing.assert_allclose(answer, mlp_answer(rows), rtol=1e-4)
            assert hits(server) == number - 1


def test_a_redis_that_is_not_there_costs_no_answers(tmp_path: Path):
    write_mlp(tmp_path / "models" / "mlp", 1)
    (tmp_path / "models" / "mlp" / "salver.toml").write_text("response_cache = true\n")
    given = triton_http.InferInput("x", [1, 16], "FP32")
    given.set_data_from_numpy(np.ones((1, 16), np.float32))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        options = ["--response-cache", f"redis,port={taken.getsockname()[1]}"]
        with ServerProcess([tmp_path / "models"], tmp_path / "log", options) as server:
            server.wait_ready()
            with triton_http.InferenceServerClient(server.address) as client:
                for _ in range(3):
                    assert client.infer("mlp", [given]).as_numpy("y").shape == (1, 3)
            assert server.output().count("the response cache fails") == 1
