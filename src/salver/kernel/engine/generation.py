"""Signature and request format of models that generate token by token.

Every such model has this signature, whatever runs it. Settings are optional inputs or request parameters of
the same names. Pure.
"""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from salver.kernel.engine.admission import Admission
from salver.kernel.engine.sampling import Sampling
from salver.kernel.engine.transcript import Vocabulary
from salver.words.errors import InvalidInput
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import DataType

#: Defaults of OIP-18, except ``seed``, which is drawn for each request that has none.
_DEFAULTS: dict[str, Any] = {"max_tokens": 20, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": None}
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (lambda v: v >= 1, "at least 1"),
    "temperature": (lambda v: 0 <= v < math.inf, "0 (always the likeliest token) or more"),
    "top_k": (lambda v: v >= 0, "0 (all tokens) or more"),
    "top_p": (lambda v: 0 < v <= 1, "more than 0 and at most 1"),
    "seed": (lambda v: True, ""),
}
_MOST_STOPS = 16
_LONGEST_STOP = 256  # characters; limited because each token's text is compared with every prefix of it

SIGNATURE = Signature(
    inputs=(
        TensorSpec("text_input", DataType.BYTES, (1,)),
        TensorSpec("max_tokens", DataType.INT32, (1,), optional=True),
        TensorSpec("temperature", DataType.FP32, (1,), optional=True),
        TensorSpec("top_k", DataType.INT32, (1,), optional=True),
        TensorSpec("top_p", DataType.FP32, (1,), optional=True),
        TensorSpec("seed", DataType.INT64, (1,), optional=True),
        TensorSpec("stop", DataType.BYTES, (-1,), optional=True),
    ),
    outputs=(TensorSpec("text_output", DataType.BYTES, (1,)),),
    platform="salver_steps",
)


class Prompt(msgspec.Struct, frozen=True):
    """A parsed request.

    Attributes:
        tokens: Tokens of the prompt, at least one.
        most: Maximum tokens of the answer.
        stops: Texts that end the answer.
        is_seeded: The caller chose the seed.
    """

    tokens: list[int]
    most: int
    sampling: Sampling
    stops: tuple[str, ...]
    is_seeded: bool


class PromptReader:
    """Parser of requests to one model.

    Args:
        most: Maximum tokens of a prompt.
    """

    def __init__(self, model: str, vocabulary: Vocabulary, most: int) -> None:
        self._admission = Admission(model, SIGNATURE)
        self._vocabulary = vocabulary
        self._most = most

    def read(self, request: InferRequest) -> Prompt:
        """Parse a request.

        Raises:
            InvalidInput: names the field.
        """
        bound = self._admission.bind(request)
        given = {
            spec.name: array
            for spec, array in zip(SIGNATURE.inputs, bound.arrays, strict=True)
            if array is not None
        }
        tokens = self._vocabulary.encode(_text(given["text_input"][0], "text_input"), self._most)
        if not tokens:
            raise InvalidInput("text_input must not be empty", field="text_input")
        values = dict(_DEFAULTS)
        for name, default in _DEFAULTS.items():
            if name in given:  # tensors win over parameters of the same name
                values[name] = given[name][0].item()
            elif name in request.parameters:
                values[name] = _number(name, request.parameters[name], default)
            is_right, wanted = _RULES[name]
            if values[name] is not None and not is_right(values[name]):
                raise InvalidInput(f"{name} must be {wanted}, not {values[name]!r}", field=name)
        stops = [_text(stop, "stop") for stop in given["stop"]] if "stop" in given else []
        if "stop" in request.parameters and "stop" not in given:
            stops = [_text(request.parameters["stop"], "stop")]
        if len(stops) > _MOST_STOPS or not all(0 < len(stop) <= _LONGEST_STOP for stop in stops):
            raise InvalidInput(
                f"stop must hold at most {_MOST_STOPS} texts of 1 to {_LONGEST_STOP} characters", field="stop"
            )
        sampling = Sampling(values["temperature"], values["top_k"], values["top_p"], values["seed"] or 0)
        return Prompt(tokens, values["max_tokens"], sampling, tuple(stops), values["seed"] is not None)


def _text(value: Any, name: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{name} must be UTF-8 text: {error}", field=name) from error
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text, not {value!r}", field=name)
    return value


def _number(name: str, value: Any, default: Any) -> Any:
    wanted = (int, float) if isinstance(default, float) else (int,)
    if isinstance(value, bool) or not isinstance(value, wanted):  # a bool is an int to Python
        kind = "a whole number"
        if isinstance(default, float):
            kind = "a number"
        raise InvalidInput(f"parameter '{name}' must be {kind}, not {value!r}", field=f"parameters.{name}")
    return value
