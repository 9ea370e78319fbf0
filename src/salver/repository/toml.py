"""What does a ``salver.toml`` say, and if it is wrong, where and how?"""

import difflib
import re
import tomllib
from typing import Any, Final

import msgspec

from salver.artifacts import Batching, Instances, ModelConfig, Steps, Versions, Warmup
from salver.errors import InvalidInput
from salver.messages import TensorSpec

#: Keys by table; the tables of arrays by their name too.
_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "": ModelConfig.__struct_fields__,
    "batching": Batching.__struct_fields__,
    "instances": Instances.__struct_fields__,
    "versions": Versions.__struct_fields__,
    "warmup": Warmup.__struct_fields__,
    "steps": Steps.__struct_fields__,
    "inputs": TensorSpec.__struct_fields__,
    "outputs": TensorSpec.__struct_fields__,
}


def parse_toml(content: bytes, origin: str) -> ModelConfig:
    """A model's configuration.

    Args:
        origin: The file's path, for messages.

    Raises:
        InvalidInput: names the file, the line where it is known, the key and the nearest valid one.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{origin}: byte {error.start} is not UTF-8", fix="Save the file as UTF-8"
        ) from error
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits; brackets too deep
        raise InvalidInput(f"{origin}: {error}") from error
    _refuse_unknown(document, "", text, origin)
    try:
        config = msgspec.convert(document, ModelConfig)
        _check(config)
    except (msgspec.ValidationError, ValueError) as error:
        message, _, path = str(error).partition(" - at `$")
        key = path.strip("`.")
        at = f"{_line(text, key)}key `{key}`: " if key else ""
        raise InvalidInput(f"{origin}: {at}{message[:1].lower()}{message[1:]}", field=key) from error
    return config


def _refuse_unknown(document: dict[str, Any], table: str, text: str, origin: str) -> None:
    """Ahead of msgspec, which names neither line nor neighbour; structs refuse unknown keys too."""
    known = _KEYS[table]
    for key, value in document.items():
        path = f"{table}.{key}" if table else key
        if key not in known:
            close = difflib.get_close_matches(key, known, 1, 0.5)
            fix = f"Did you mean `{close[0]}`?" if close else f"Known here: {', '.join(known)}"
            raise InvalidInput(f"{origin}: {_line(text, key)}unknown key `{path}`", fix=fix)
        if not table and key in _KEYS:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    _refuse_unknown(part, key, text, origin)


def _line(text: str, path: str) -> str:
    """``line 3: `` of the first line that sets the last part of a key; empty if none does."""
    key = re.sub(r"\[.*?\]", "", path).rsplit(".", 1)[-1]
    pattern = re.compile(
        rf"^\s*(?:\[+\s*)?(?:[\w.-]+\.)?[\"']?{re.escape(key)}[\"']?\s*[=.\]]|[{{,]\s*{re.escape(key)}\s*="
    )
    for number, line in enumerate(text.splitlines(), 1):
        if key and pattern.search(line):
            return f"line {number}: "
    return ""


def _check(config: ModelConfig) -> None:
    """What types cannot say."""
    rules = (
        (config.batching.max_rows >= 1, "batching.max_rows", "must be at least 1"),
        (config.batching.max_delay_ms >= 0, "batching.max_delay_ms", "must not be negative"),
        (config.batching.max_queue >= 1, "batching.max_queue", "must be at least 1"),
        (
            all(n >= 1 for n in config.batching.preferred_rows),
            "batching.preferred_rows",
            "must be at least 1",
        ),
        (config.instances.count >= 0, "instances.count", "must not be negative"),
        (config.instances.threads >= 0, "instances.threads", "must not be negative"),
        (config.instances.memory_limit_mb >= 0, "instances.memory_limit_mb", "must not be negative"),
        (config.versions.latest >= 1, "versions.latest", "must be at least 1"),
        (not (config.versions.all and config.versions.specific), "versions", "has both `all` and `specific`"),
        (config.warmup.rounds >= 0, "warmup.rounds", "must not be negative"),
        (all(n >= 1 for n in config.warmup.rows), "warmup.rows", "must be at least 1"),
        (config.warmup.free_dim >= 1, "warmup.free_dim", "must be at least 1"),
        (config.steps.max_sequences >= 1, "steps.max_sequences", "must be at least 1"),
        (config.steps.max_context >= 2, "steps.max_context", "must be at least 2"),
        (config.steps.max_tokens >= 0, "steps.max_tokens", "must not be negative"),
        (config.steps.max_chunk >= 1, "steps.max_chunk", "must be at least 1"),
        (config.timeout_ms >= 0, "timeout_ms", "must not be negative"),
        (
            all(n >= -1 for t in config.inputs + config.outputs for n in t.shape),
            "inputs",
            "extents are -1 or more",
        ),
    )
    for holds, key, message in rules:
        if not holds:
            raise ValueError(f"{message} - at `$.{key}`")
