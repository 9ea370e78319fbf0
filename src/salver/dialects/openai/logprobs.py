"""Probabilities of vLLM's tokens, as OpenAI's routes show them.

A model gives a list with an object for each token of its answer: from ids of tokens to ``logprob``,
``rank`` and ``decoded_token``, the token that was drawn first and then the likeliest ones. Pure.
"""

import math
import sys
from typing import Any

from salver.words.errors import ModelFailed


def of_chat(probabilities: Any) -> list[dict[str, Any]]:
    """As chat completions have them.

    Raises:
        ModelFailed: the model gave something else.

    >>> of_chat([{"5": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}}])[0]["bytes"]
    [97]
    """
    return [
        {**_token(*drawn), "top_logprobs": [_token(*other) for other in ranked]}
        for drawn, ranked in _read(probabilities)
    ]


def of_completion(probabilities: Any, offset: int) -> dict[str, Any]:
    """As completions have them.

    Args:
        offset: Characters of the answer before these tokens.

    Raises:
        ModelFailed: the model gave something else.
    """
    told: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    for (token, logprob), ranked in _read(probabilities):
        told["text_offset"].append(offset)
        told["token_logprobs"].append(logprob)
        told["tokens"].append(token)
        told["top_logprobs"].append(dict(ranked))
        offset += len(token)
    return told


def _read(probabilities: Any) -> list[tuple[tuple[str, float], list[tuple[str, float]]]]:
    """Of each place the token that was drawn, and all that were told, the likeliest first."""
    found = []
    try:
        for place in probabilities:
            tokens = [
                (told.get("rank") or sys.maxsize, str(told["decoded_token"] or ""), float(told["logprob"]))
                for told in place.values()
            ]
            if tokens:
                ranked = [
                    (token, _finite(logprob)) for _, token, logprob in sorted(tokens, key=lambda t: t[0])
                ]
                found.append(((tokens[0][1], _finite(tokens[0][2])), ranked))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFailed(f"the model gave probabilities of another form than vLLM's: {error!r}") from error
    return found


def _finite(logprob: float) -> float:
    """JSON has no -inf; OpenAI's word for it is this number."""
    return logprob if math.isfinite(logprob) else -9999.0


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}
