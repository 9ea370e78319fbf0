"""Which configurations are both servers given? Good ones, and one of each kind of mistake."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beside_cases import Case, http, scenario, tensor
from beside_models import TEXTS

Json = Any
_BASES: dict[str, Json] = {
    "echo": {
        "backend": "python",
        "max_batch_size": 4,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [4]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [4]}],
        "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
    },
    "ensembled": {
        "platform": "ensemble",
        "max_batch_size": 4,
        "input": [{"name": "A", "data_type": "TYPE_FP32", "dims": [2, 2]}],
        "output": [{"name": "B", "data_type": "TYPE_FP32", "dims": [2, 2]}],
    },
}
_ASKED: dict[str, Json] = {
    "echo": {"inputs": [tensor("X", "FP32", [1, 4], [1, 2, 3, 4])]},
    "ensembled": {"inputs": [tensor("A", "FP32", [1, 2, 2], [1, 2, 3, 4])]},
}
_NO_CONFIG = (
    "",
    "{",
    "[]",
    "null",
    "1",
    '"x"',
    "{}",
    "x",
    'name: "echo"',
    '{"input":[],"input":[]}',
    '{"backend":""} x',
)


def _steps(name: str, number: int, document: str) -> list[Case]:
    url, id = f"/v2/repository/models/{name}", f"config-{number}"
    return [
        http(f"{id}-load", f"{url}/load", {"parameters": {"config": document}}),
        http(f"{id}-config", f"/v2/models/{name}/config"),
        http(f"{id}-metadata", f"/v2/models/{name}"),
        http(f"{id}-ready", f"/v2/models/{name}/ready", compare={"how": "status"}),
        http(f"{id}-infer", f"/v2/models/{name}/infer", _ASKED[name]),
        http(f"{id}-unload", f"{url}/unload", ""),
    ]


def config_cases(seed: int) -> Iterator[Case]:
    """Each change of ``configs.jsonl`` is loaded, looked at, asked and unloaded."""
    del seed
    lines = Path(__file__).with_name("configs.jsonl").read_text().splitlines()
    changes = [json.loads(line) for line in lines]
    documents = [(model, json.dumps(_BASES[model] | change)) for model, change in changes]
    documents += [("echo", text) for text in _NO_CONFIG]
    for number, (model, document) in enumerate(documents):
        yield from scenario(f"config-{number}", _steps(model, number, document))


def text_cases(seed: int) -> Iterator[Case]:
    """The models of :data:`beside_models.TEXTS`."""
    del seed
    for name in TEXTS:
        url = f"/v2/repository/models/{name}"
        steps = [
            http(f"{name}-load", f"{url}/load", ""),
            http(f"{name}-config", f"/v2/models/{name}/config"),
            http(f"{name}-metadata", f"/v2/models/{name}"),
            http(f"{name}-infer", f"/v2/models/{name}/infer", _ASKED["echo"]),
            http(f"{name}-unload", f"{url}/unload", ""),
        ]
        yield from scenario(name, steps)
