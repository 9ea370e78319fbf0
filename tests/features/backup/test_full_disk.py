"""A server on a full disk answers requests, refuses writes, and goes on when there is room."""

import json
import resource
from pathlib import Path

from zoo import write_mlp

from salver.testing.process import ServerProcess

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}


def test_a_full_disk_stops_writes_alone(tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    options = ("--registry", str(tmp_path / "registry"))
    with ServerProcess([tmp_path / "mlp"], tmp_path / "log", options) as server:
        server.wait_ready()

        def post(id: str) -> tuple[int, dict[str, object]]:
            told = {"outcomes": [{"id": id, "name": "sale", "unit": "ada", "value": 1}]}
            kind = {"content-type": "application/json"}
            status, body = server.ask("POST", "/api/v1/outcomes", json.dumps(told).encode(), kind)
            return status, json.loads(body)

        assert post("o1")[0] == 200
        # no file of the server can grow beyond a byte: for SQLite, as on a full disk
        _, most = before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, most))
        status, refused = post("o2")
        assert status == 503
        assert "disk" in json.dumps(refused)
        assert server.post("/v2/models/mlp/infer", ROW)[0] == 200
        assert server.get("/v2/health/ready")[0] == 200
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
        assert post("o2") == (200, {"accepted": 1, "duplicates": 0, "unmatched": ["o2"], "refused": []})
        assert post("o1")[1]["duplicates"] == 1
