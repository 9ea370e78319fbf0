"""Data plane's stage of rules: changes and refuses requests, before the stage of releases."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from salver.features.routing.rules.conditions import Facts
from salver.features.routing.rules.copies import Copies
from salver.features.routing.rules.table import CompiledRule, RuleTable, decide
from salver.kernel.serving.stages import Change, Passage, Stage
from salver.words.messages import Call, InferRequest, InferResponse, ModelId
from salver.words.releases import Assignment

#: Trait of what the server asks its own models: rules are about callers' requests only, so that none loops.
_INNER: Final = "inner"


class RuleStage:
    """Rules, as a stage of the data plane.

    Args:
        copies: Sends copies.
        now: Returns Unix seconds.

    Attributes:
        beneath: Stage of releases, which sees requests as rules have changed them; None = there is none.
        table: Rules in force.
        matched: Requests by the name of the rule that decided on them.
    """

    beneath: Stage | None = None

    def __init__(self, copies: Copies, now: Callable[[], float]) -> None:
        self.table = RuleTable()
        self.matched: Counter[str] = Counter()
        self.copies = copies
        self._now = now

    def __repr__(self) -> str:
        return f"<RuleStage of {self.table!r}>"

    def begin(self, model: str, version: str, call: Call) -> Passage | None:
        """See :class:`~salver.kernel.serving.stages.Stage`."""
        name, at, label = model.rpartition("@")
        if not at:
            name, label = model, version
        rules = self.table.of(name)
        traits = call.traits or {}
        if not rules or _INNER in traits:
            return self.below(model, version, call)
        facts = Facts(name, label or version, self._now(), traits, call.standing.tenant or None)
        found = decide(rules, facts)
        if found is None:
            return self.below(model, version, call)
        asked = _Incoming(rules, facts, model, version, call)
        if isinstance(found, CompiledRule):
            return self.ruled(asked, found)
        return RuledRequest(self, asked)

    def below(self, model: str, version: str, call: Call) -> Passage | None:
        """Return the passage through the stage of releases."""
        if self.beneath is None:
            return None
        return self.beneath.begin(model, version, call)

    def ruled(self, asked: "_Incoming", rule: CompiledRule) -> "RuledRequest":
        """Return the passage of a request on which a rule decides."""
        change = rule.change(asked.model, asked.version)
        inner = None
        if change.refusal is None:
            inner = self.below(change.model, change.version, asked.call)
        return RuledRequest(self, asked, rule, change, inner)

    def carry(self, call: Call, request: InferRequest) -> None:
        """See :class:`~salver.kernel.serving.stages.Stage`."""
        if self.beneath is not None:
            self.beneath.carry(call, request)

    def inherit(self, call: Call) -> bool:
        """See :class:`~salver.kernel.serving.stages.Stage`."""
        is_copy = self.beneath is not None and self.beneath.inherit(call)
        call.traits = {**(call.traits or {}), _INNER: "true"}
        return is_copy

    def forget(self, call: Call) -> None:
        """See :class:`~salver.kernel.serving.stages.Stage`."""
        if self.beneath is not None:
            self.beneath.forget(call)


class _Incoming(msgspec.Struct, frozen=True):
    """Request as its caller sent it, with the rules that it may match."""

    rules: Sequence[CompiledRule]
    facts: Facts
    model: str
    version: str
    call: Call


class RuledRequest:
    """Rules' part in one request (:class:`~salver.kernel.serving.stages.Passage`).

    Args:
        rule: Rule that decides; None = not known yet.
        change: Its change of the request.
        inner: Passage through the stage of releases; None = it has no part in it.
    """

    __slots__ = ("_asked", "_inner", "_rule", "_stage", "change")

    def __init__(
        self,
        stage: RuleStage,
        asked: _Incoming,
        rule: CompiledRule | None = None,
        change: Change | None = None,
        inner: Passage | None = None,
    ) -> None:
        self.change = change
        self._stage = stage
        self._asked = asked
        self._rule = rule
        self._inner = inner

    @property
    def model(self) -> str:
        """Return the model that answers, by name."""
        return self._asked.model if self._inner is None else self._inner.model

    @property
    def versions(self) -> Sequence[str]:
        """Return the versions that a release has chosen."""
        return () if self._inner is None else self._inner.versions

    @property
    def is_open(self) -> bool:
        """See :class:`~salver.kernel.serving.stages.VersionChoice`."""
        if self._rule is None or self._rule.is_open:
            return True
        return self._inner is not None and self._inner.is_open

    def settled(self, request: InferRequest) -> Passage:
        """See :class:`~salver.kernel.serving.stages.Passage`."""
        asked, stage = self._asked, self._stage
        ruled = self
        if self._rule is None:
            found = decide(asked.rules, asked.facts.decoded(request))
            if not isinstance(found, CompiledRule):
                inner = stage.below(asked.model, asked.version, asked.call)
                return self if inner is None else inner.settled(request)
            ruled = stage.ruled(asked, found)
        return ruled._settled(request)

    def _settled(self, request: InferRequest) -> Passage:
        rule, inner = self._rule, self._inner
        assert rule is not None
        if rule.rule.settings.shadow:
            self._stage.copies.send(rule.rule, request)
        settled = None if inner is None else inner.settled(request)
        if settled is inner:
            return self
        return RuledRequest(self._stage, self._asked, rule, self.change, settled)

    def wants(self, served: ModelId) -> bool:
        """See :class:`~salver.kernel.serving.stages.Passage`."""
        return self._inner is not None and self._inner.wants(served)

    def keep(self, piece: InferResponse) -> None:
        """See :class:`~salver.kernel.serving.stages.Passage`."""
        if self._inner is not None:
            self._inner.keep(piece)

    def answered(self, request: InferRequest, answer: Sequence[InferResponse] | None, why: str) -> None:
        """See :class:`~salver.kernel.serving.stages.Passage`."""
        if self._inner is not None:
            self._inner.answered(request, answer, why)

    def end(self, *, has_begun: bool = True) -> Assignment | None:
        """See :class:`~salver.kernel.serving.stages.Passage`."""
        if has_begun and self._rule is not None:
            self._stage.matched[self._rule.rule.name] += 1
        return None if self._inner is None else self._inner.end(has_begun=has_begun)
