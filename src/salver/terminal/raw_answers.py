"""Answers of models with raw inputs as tables. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

_MOST_NUMBERS: Final = 6


def tabulated(answer: Any) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows that show an answer.

    >>> tabulated([{"label": "cat", "score": 0.75}])
    (['label', 'score'], [['cat', '0.75']])
    >>> tabulated({"sequence": "a", "labels": ["x", "y"], "scores": [0.9, 0.1]})
    (['sequence', 'labels', 'scores'], [['a', 'x', '0.9'], ['', 'y', '0.1']])
    """
    rows = _records(answer)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, [[shown(row.get(name, "")) for name in columns] for row in rows]


def _records(answer: Any) -> list[dict[str, Any]]:
    """Return a record for each row of an answer."""
    if isinstance(answer, Mapping):
        return _of_object(answer)
    if not isinstance(answer, list) or _is_vector(answer):
        return [{"answer": answer}]
    found = []
    for index, each in enumerate(answer):
        if isinstance(each, list) and not _is_vector(each):  # several for each input
            found += [{"input": index, **one} for one in _records(each)]
        elif isinstance(each, Mapping):
            found.append(_flat(each))
        else:
            found.append({"answer": each})
    return found


def _of_object(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of an object: of its lists, if they are equally long, beside its single values."""
    lists = {name: value for name, value in answer.items() if isinstance(value, list)}
    if list(answer) == ["predictions"] and not _is_vector(answer["predictions"]):
        return _records(answer["predictions"])
    if list(answer) == ["embeddings"] and _is_vector(answer["embeddings"]):
        return [dict(answer)]
    lengths = {len(value) for value in lists.values()}
    if len(lengths) != 1 or not all(lengths):
        return [_flat(answer)]
    found = []
    for index in range(*lengths):
        row = {name: value for name, value in answer.items() if name not in lists and index == 0}
        found.append(
            {**dict.fromkeys(answer, ""), **row, **{name: value[index] for name, value in lists.items()}}
        )
    return [_flat(row) for row in found]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without objects in it: their members are columns as well."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            found[name] = value
    return found


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, int | float) for one in value)


def shown(value: Any) -> str:
    """Return a value as a cell shows it; of many numbers the first ones.

    >>> shown(0.123456789), shown(None), shown([1.0] * 384)
    ('0.12346', 'null', '[1, 1, 1, 1, 1, 1, … 384 numbers]')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.5g}"
    if _is_vector(value) and len(value) > _MOST_NUMBERS:
        first: Sequence[Any] = value[:_MOST_NUMBERS]
        return f"[{', '.join(map(shown, first))}, … {len(value)} numbers]"
    return msgspec.json.encode(value).decode()
