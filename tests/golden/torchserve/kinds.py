import torch

VALUES = {
    "str": "plain text",
    "unicode": "grüße, мир",
    "empty": "",
    "bytes": b"\x00\x01\xfe\xff",
    "bytearray": bytearray(b"array"),
    "dict": {"b": [1, 2.5, None, True], "a": {"c": "d"}},
    "list": [1, [2, 3], "x"],
    "int": 7,
    "float": 0.1,
    "bool": True,
    "none": None,
    "nested-unicode": {"k": "é"},
    "empty-dict": {},
    "empty-list": [],
    "set": {1, 2},
    "nan": float("nan"),
    "tensor-list": torch.arange(4.0).tolist(),
    "tensor": torch.arange(4, dtype=torch.int64),
    "json-text": '{"already": "json"}',
}


class Kinds:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        names = [
            row.get("body") if isinstance(row.get("body"), str) else bytes(row["body"]).decode()
            for row in data
        ]
        return [VALUES[name] for name in names]
