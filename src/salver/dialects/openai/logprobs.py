"""Log probabilities of vLLM's tokens in the forms of OpenAI's routes.

A model gives one object for each token of its answer, from token ids to ``logprob``, ``rank`` and
``decoded_token``; the drawn token comes first, then the likeliest ones. Pure.
"""

import math
import sys
from typing import Any

from salver.words.errors import ModelFailed


def of_chat(probabilities: Any) -> list[dict[str, Any]]:
    """Return them for a chat completion.

    Raises:
        ModelFailed: They have another form.

    >>> of_chat([{"5": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}}])[0]["bytes"]
    [97]
    """
    return [
        {**_token(*drawn), "top_logprobs": [_token(*other) for other in ranked]}
        for drawn, ranked in _read(probabilities)
    ]


def of_completion(probabilities: Any, offset: int) -> dict[str, Any]:
    """Return them for a completion.

    Args:
        offset: Characters of the answer before these tokens.

    Raises:
        ModelFailed: They have another form.
    """
    lists: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    for (token, logprob), ranked in _read(probabilities):
        lists["text_offset"].append(offset)
        lists["token_logprobs"].append(logprob)
        lists["tokens"].append(token)
        lists["top_logprobs"].append(dict(ranked))
        offset += len(token)
    return lists


def _read(probabilities: Any) -> list[tuple[tuple[str, float], list[tuple[str, float]]]]:
    """Return for each position the drawn token, and all given tokens with the likeliest first."""
    found = []
    try:
        for position in probabilities:
            tokens = [
                (
                    each.get("rank") or sys.maxsize,
                    (str(each["decoded_token"] or ""), _finite(each["logprob"])),
                )
                for each in position.values()
            ]
            if tokens:
                ranked = [token for _, token in sorted(tokens, key=lambda t: t[0])]
                found.append((tokens[0][1], ranked))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFailed(f"the model gave probabilities of another form than vLLM's: {error!r}") from error
    return found


def _finite(value: Any) -> float:
    """Return a logarithm as JSON can carry it: OpenAI writes -9999 for -inf."""
    logprob = float(value)
    return logprob if math.isfinite(logprob) else -9999.0


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}
