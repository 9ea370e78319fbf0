"""Rights of callers whose requests a rule sends to another model."""

from pathlib import Path

import httpx
from access_world import KeyRing, serving
from zoo import write_constant

from salver.features.routing import RulesConfig
from salver.words.artifacts import LoadOrder

RULES = """
[[rules]]
name = "moved"
when = { model = "mlp" }
set = { model = "constant" }
"""
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0] * 16}]}


async def test_a_caller_needs_the_right_to_the_model_that_it_names(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.toml")
    other = ring.add("constant", "infer:constant")
    ring.write()
    write_constant(tmp_path / "models", 2)
    (tmp_path / "rules.toml").write_text(RULES)
    async with serving(tmp_path, ring.path, rules=RulesConfig(str(tmp_path / "rules.toml"))) as ports:
        await ports.server.control.load("constant", LoadOrder())
        url = f"{ports.url()}/v2/models/mlp/infer"
        async with httpx.AsyncClient() as client:
            said = await client.post(url, json=BODY, headers={"authorization": f"Bearer {ring.same_model}"})
            assert said.status_code == 200, said.text
            assert said.json()["outputs"][0]["data"] == [2.0]
            said = await client.post(url, json=BODY, headers={"authorization": f"Bearer {other}"})
            assert said.status_code == 403
