"""The JSON Schema of ``salver.toml``. ``python tests/cli/test_config_schema.py`` rewrites its file."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from salver.cli.config_schema import schema
from salver.kernel.repository.toml import parse_toml
from salver.words.errors import InvalidInput

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "salver-toml.schema.json"
VALID = jsonschema_rs.Draft202012Validator(schema())


def text() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def test_the_published_file_is_up_to_date() -> None:
    assert PAGE.read_text() == text(), f"run: python {Path(__file__).relative_to(ROOT)}"


def examples() -> list[str]:
    """Every ``salver.toml`` of the documentation."""
    pages = [path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))]
    patterns = (r"salver\.toml <<'?EOF'?\n(.*?)\nEOF", r"```toml\n(.*?)```")
    return [block for page in pages for pattern in patterns for block in re.findall(pattern, page, re.S)]


def is_read(content: str) -> bool:
    try:
        parse_toml(content.encode(), "m/salver.toml")
    except InvalidInput:
        return False
    return True


def test_what_the_documentation_shows_is_valid() -> None:
    shown = [content for content in examples() if is_read(content)]
    assert len(shown) > 20
    for content in shown:
        assert not [str(error) for error in VALID.iter_errors(tomllib.loads(content))], content


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("bacthing = {}", []),
        ("batching.max_rows = 0", ["batching", "max_rows"]),
        ("batching.max_rows = 100_000_000", ["batching", "max_rows"]),
        ("batching.policy = 'fast'", ["batching", "policy"]),
        ("warmup.rows = [0]", ["warmup", "rows", 0]),
        ("objective = 'speed'", ["objective"]),
        ("objective = { latency_p99 = 'soon' }", ["objective"]),
        ("inputs = [{ name = 'x', datatype = 'FP31', shape = [1] }]", ["inputs", 0, "datatype"]),
        ("timeout_ms = -1", ["timeout_ms"]),
        ("instances.runner = 'fork'", ["instances", "runner"]),
    ],
)
def test_what_the_server_refuses_is_invalid(content: str, place: list[Any]) -> None:
    assert not is_read(content)
    (error,) = VALID.iter_errors(tomllib.loads(content))
    assert error.instance_path == place


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("server.prot = 1", ["server"]),
        ("server.port = '1'", ["server", "port"]),
        ("server.log.level = 'loud'", ["server", "log", "level"]),
        ("server.metrics.summaries = 1", ["server", "metrics", "summaries"]),
        ("server.trust_pickle = true", ["server"]),
    ],
)
def test_what_the_server_refuses_of_its_own_table_is_invalid(content: str, place: list[Any]) -> None:
    (error,) = VALID.iter_errors(tomllib.loads(content))
    assert error.instance_path == place


def test_keys_are_described_by_their_docstrings() -> None:
    described = schema()["properties"]
    assert described["timeout_ms"]["description"] == "Deadline of requests that have none; 0 = none."
    assert described["inputs"]["description"].startswith("Override or complete the artefact's own signature")
    assert described["outputs"]["description"] == described["inputs"]["description"]


if __name__ == "__main__":
    PAGE.write_text(text())
