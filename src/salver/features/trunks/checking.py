"""Comparison of models with their trunk and heads: equal answers, and what it saves."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from salver.features.trunks.graph import Cut, Graph, Part
from salver.words.errors import InvalidInput
from salver.words.tensor import Array

_ROWS: Final = (4, 1)  # the last one is timed
_ROUNDS: Final = 15
_KINDS: Final = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class Check(NamedTuple):
    """Result of a comparison.

    Attributes:
        apart: Largest difference of an output; 0 = equal bit by bit.
        whole_s: Seconds of all models for one row.
        trunk_s, heads_s: Seconds of the trunk, and of all heads.
    """

    apart: float
    whole_s: float
    trunk_s: float
    heads_s: float


def check(models: Sequence[Graph], cut: Cut, trunk: Part, heads: Sequence[Part], size: int) -> Check:
    """Run both forms on random inputs, and time them in turns.

    Args:
        size: Free extents other than the rows.

    Raises:
        InvalidInput: a model does not run on such inputs.
    """
    sessions = [_open(model.proto) for model in models]
    first, *others = [_open(part.proto) for part in (trunk, *heads)]
    inputs = {each.name: each for session in sessions for each in session.get_inputs()}
    apart = 0.0
    for rows in _ROWS:
        given = {name: _drawn(each, rows, size) for name, each in inputs.items()}
        try:
            expected = [_run(session, given) for session in sessions]
        except Exception as error:  # of the runtime, about shapes that do not go together
            raise InvalidInput(
                f"a model does not run on random inputs with free extents of {size}: {error}",
                fix="Set --size.",
            ) from error
        between = {**given, **_run(first, given)}
        for session, wanted, renamed in zip(others, expected, cut, strict=True):
            got = {**between, **_run(session, between)}
            apart = max(apart, *(_apart(got[renamed.get(n, n)], array) for n, array in wanted.items()))
    times = _timed(
        lambda: [_run(session, given) for session in sessions],
        lambda: _run(first, given),
        lambda: [_run(session, between) for session in others],
    )
    return Check(apart, *times)


def _run(session: Any, given: Mapping[str, Array]) -> dict[str, Array]:
    wanted = {each.name: given[each.name] for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, wanted), strict=True))


def _open(proto: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidInput(f"a part of the model does not load: {error}") from error


def _drawn(spec: Any, rows: int, size: int) -> Array:
    """Return random values; of integers 0 and 1, which every vocabulary and mask has."""
    shape = [each if isinstance(each, int) else size for each in spec.shape]
    if shape and not isinstance(spec.shape[0], int):
        shape[0] = rows
    chance = np.random.default_rng(7)
    if spec.type in _KINDS:
        return chance.standard_normal(shape).astype(_KINDS[spec.type])
    kind = {
        "tensor(bool)": np.bool_,
        "tensor(int32)": np.int32,
        "tensor(int64)": np.int64,
        "tensor(uint8)": np.uint8,
    }
    if spec.type not in kind:
        raise InvalidInput(f"no random values for the input {spec.name!r}, a {spec.type}")
    return chance.integers(0, 2, shape).astype(kind[spec.type])


def _apart(got: Array, wanted: Array) -> float:
    if got.tobytes() == wanted.tobytes():
        return 0.0
    if got.shape != wanted.shape or got.dtype != wanted.dtype or not np.issubdtype(got.dtype, np.floating):
        return float("inf")
    return float(np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max())


def _timed(*calls: Callable[[], object]) -> list[float]:
    """Return the shortest duration of each call, in turns, so that other programs disturb all alike."""
    best = [float("inf")] * len(calls)
    for _ in range(_ROUNDS):
        for at, call in enumerate(calls):
            began = time.perf_counter()
            call()
            best[at] = min(best[at], time.perf_counter() - began)
    return best
