"""Calls of curl, and a request body for the perceptron of the zoo."""

import json
import subprocess

import pytest
from programs import program

HTTP = pytest.mark.parametrize("flag", ["--http1.1", "--http2-prior-knowledge"])
ROW = [[0.5] * 16]
REQUEST = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW}]})


def curl(*arguments: str) -> tuple[int, str, bytes]:
    """Status, the reply's head, and its body."""
    done = subprocess.run(
        [program("curl"), "-sS", "-i", "--max-time", "30", *arguments], capture_output=True, check=True
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    while body.startswith(b"HTTP/"):  # 100 Continue
        head, _, body = body.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body
