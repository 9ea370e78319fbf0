"""KServe's first protocol on the same models."""

import json

import numpy as np
from zoo import mlp_answer

from salver.testing.process import ServerProcess


def test_instances_in_predictions_out(server: ServerProcess) -> None:
    rows = [[0.5] * 16, [-0.5] * 16]
    status, reply = server.post("/v1/models/mlp:predict", {"instances": rows})
    assert status == 200
    np.testing.assert_allclose(
        reply["predictions"], mlp_answer(np.array(rows, np.float32)), rtol=1e-5, atol=1e-6
    )


def test_listing_and_readiness(server: ServerProcess) -> None:
    status, body = server.get("/v1/models")
    assert status == 200
    listed = json.loads(body)
    assert "mlp" in listed["models"]
    assert listed["object"] == "list"
    (entry,) = [entry for entry in listed["data"] if entry["id"] == "mlp"]
    assert (entry["object"], entry["ready"]) == ("model", True)
    assert {"created", "owned_by"} <= entry.keys()
    index = json.loads(server.ask("POST", "/v2/repository/index")[1])
    assert [version | {"name": "mlp"} for version in entry["versions"]] == [
        {"reason": "", **row} for row in index if row["name"] == "mlp"
    ]
    assert {entry["id"] for entry in listed["data"]} == {row["name"] for row in index}
    assert server.get("/v2/models")[0] == 404
    status, body = server.get("/v1/models/mlp")
    assert status == 200
    shown = json.loads(body)
    assert (shown["name"], shown["ready"], shown["id"], shown["object"]) == ("mlp", True, "mlp", "model")


def test_errors(server: ServerProcess) -> None:
    status, reply = server.post("/v1/models/nobody:predict", {"instances": [[1.0]]})
    assert status == 404
    assert "nobody" in reply["error"]
    status, reply = server.post("/v1/models/mlp:predict", {"instances": [[1.0] * 17]})
    assert status == 400
    assert "unexpected shape for input 'x'" in reply["error"]
    status, reply = server.post("/v1/models/mlp:predict", {"rows": []})
    assert status == 400
    assert "instances" in reply["error"]
