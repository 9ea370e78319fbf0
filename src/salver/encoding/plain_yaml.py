"""Parser for untrusted YAML: plain values only, with limits.

Pure. It knows no file, and imports its parser on first use.
"""

from typing import Any, Final

from salver.words.errors import InvalidInput, MissingExtra

_MOST_VALUES: Final = 20_000  # maximum number of values, with aliases expanded
_MOST_REASON: Final = 300


def read_yaml(content: bytes | str, where: str, extra: str, most: int = 1 << 20) -> Any:
    """Return the values of the single document; None = empty.

    Args:
        where: Name of the text, for messages.
        extra: The pip extra that installs the parser.
        most: Maximum bytes.

    Raises:
        InvalidInput: it is too large, invalid, or expands to too many values.
        MissingExtra: no YAML parser is installed.
    """
    documents = read_documents(content, where, extra, most)
    if len(documents) > 1:
        raise InvalidInput(
            f"{where} is not valid YAML: it has {len(documents)} documents, and should have one"
        )
    return documents[0] if documents else None


def read_documents(content: bytes | str, where: str, extra: str, most: int = 1 << 20) -> list[Any]:
    """Return the values of each document. Raises as :func:`read_yaml` does."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtra(extra, extra, "yaml") from error
    if len(content) > most:
        raise InvalidInput(f"{where} is larger than {most >> 10} KiB")
    try:
        documents = list(yaml.safe_load_all(content))
        _count(documents, {}, set())
    except RecursionError as error:
        raise InvalidInput(f"{where} is not valid YAML: it is nested too deep") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:_MOST_REASON]
        raise InvalidInput(f"{where} is not valid YAML: {reason}") from error
    return documents


def _count(value: Any, known: dict[int, int], above: set[int]) -> int:
    """Return the number of values, with aliases expanded."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) in above:
        raise ValueError("an alias refers to its own container")
    if id(value) not in known:
        above.add(id(value))
        below = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(each, known, above) for each in below)
        above.discard(id(value))
    if known[id(value)] > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES} values")
    return known[id(value)]
