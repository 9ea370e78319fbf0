"""Scopes: rights with patterns of model names.

A scope is ``RIGHT``, for all models, or ``RIGHT:PATTERN``, in which ``*`` stands for any letters. Pure.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Final

from salver.transport.restrict import Right
from salver.words.errors import InvalidInput, OutOfScope

#: Rights that a scope may give, with what each allows.
RIGHTS: Final[Mapping[str, str]] = {
    "infer": "Inference, in every protocol.",
    "read": "Metadata, readiness and statistics of models; metrics; what the management interface shows.",
    "models": "Loading and unloading models; settings of logs, traces and shared memory.",
    "registry": "Changes of the registry: versions, aliases, tags.",
    "releases": "Starting and steering releases, and policies.",
    "outcomes": "Posting outcomes.",
    "access": "Keys, and every other change of the management interface, such as webhooks.",
    "*": "All of them.",
}
_EVERYTHING: Final = "*"


class Scopes:
    """Rights of one key.

    Args:
        texts: Scopes, at least one.

    Raises:
        InvalidInput: a scope names no right.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        patterns: dict[str, list[str]] = {}
        for text in self.texts:
            right, colon, pattern = text.partition(":")
            if right not in RIGHTS or (colon and not pattern):
                raise InvalidInput(
                    f"{text!r} is no scope",
                    fix=f"Write RIGHT or RIGHT:PATTERN, with one of {', '.join(RIGHTS)}.",
                )
            for each in RIGHTS if right == _EVERYTHING else (right,):
                patterns.setdefault(each, []).append(pattern or _EVERYTHING)
        if not patterns:
            raise InvalidInput("a key without scopes can do nothing", field="scopes")
        self._grants = {right: ModelScope(right, tuple(models)) for right, models in patterns.items()}

    def __repr__(self) -> str:
        return f"<Scopes {' '.join(self.texts)}>"

    def of(self, right: Right) -> "ModelScope":
        """Return the models for which the key has a right. Raises OutOfScope: there are none."""
        found = self._grants.get(right)
        if found is None:
            raise OutOfScope(f"this key may not do this: it has no scope {right!r}", scope=right)
        return found

    def covers(self, texts: Iterable[str]) -> bool:
        """Return whether these scopes give nothing that the key does not have.

        >>> Scopes(["infer:m*"]).covers(["infer:mlp*"]), Scopes(["infer:m*"]).covers(["infer"])
        (True, False)
        """
        for text in texts:
            right, _, pattern = text.partition(":")
            for each in RIGHTS if right == _EVERYTHING else (right,):
                found = self._grants.get(each)
                # A pattern is matched like a name: only a star can match its stars.
                if found is None or not (found.has_all or found.is_allowed(pattern)):
                    return False
                if pattern == _EVERYTHING and not found.has_all:  # which ``**`` would match
                    return False
        return True


class ModelScope:
    """Models for which a key has a right.

    Attributes:
        has_all: All models.
    """

    def __init__(self, right: str, patterns: tuple[str, ...]) -> None:
        self._right = right
        self.has_all = _EVERYTHING in patterns
        self._matches = re.compile("|".join(map(_expression, patterns)), re.DOTALL).fullmatch
        self.is_allowed = functools.lru_cache(256)(self._is_allowed)

    def __repr__(self) -> str:
        return f"<ModelScope {self._right}>"

    def _is_allowed(self, model: str) -> bool:
        """Return whether the models include one; empty = all models."""
        return self.has_all or (model != "" and self._matches(model) is not None)

    def check(self, model: str) -> None:
        """Check a model's name; empty = all models. Raises OutOfScope."""
        if not self.is_allowed(model):
            raise self.refusal(model)

    def refusal(self, model: str) -> OutOfScope:
        """Return the error for a model that is not allowed, which is the same if there is no such model."""
        what = f"for model '{model}'" if model else "for all models together"
        return OutOfScope(f"this key has no scope {self._right!r} {what}", scope=self._right)


def _expression(pattern: str) -> str:
    return ".*".join(map(re.escape, pattern.split("*")))
