"""Table of the rules in force, checked as a whole: the first one that matches a request decides. Pure."""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from salver.features.routing.rules.conditions import Condition, Facts, OneOf, conditions_of
from salver.features.routing.rules.document import ANY, Document, Refusal, Rule
from salver.kernel.repository.toml import milliseconds, read_document
from salver.kernel.serving.stages import Change
from salver.words import errors
from salver.words.releases import HEADER

_ERRORS: Final[Mapping[str, type[errors.SalverError]]] = {
    "forbidden": errors.Forbidden,
    "not_found": errors.NotFound,
    "not_ready": errors.NotReady,
    "overloaded": errors.Overloaded,
    "rate_limited": errors.RateLimited,
    "too_large": errors.TooLarge,
    "unsupported": errors.Unsupported,
}


class Verdict(enum.Enum):
    """Result before a request is decoded, if no rule decides yet."""

    OPEN = "the body decides"


class CompiledRule:
    """Rule with its conditions and settings as they are applied.

    Raises:
        ValueError: it is wrong; the text names the field.

    Attributes:
        conditions: Conditions, which must all hold.
        wanted: What they want, by their fields.
        models: Names of the models that it is about; None = all.
        is_open: The decoded request is needed to apply its settings.
    """

    def __init__(self, rule: Rule) -> None:
        settings = rule.settings
        self.rule = rule
        self.conditions: Sequence[Condition] = conditions_of(rule.when)
        self.wanted = {each.field: each.wanted for each in self.conditions}
        names = self.wanted.get("model")
        self.models: frozenset[str] | None = None
        if isinstance(names, OneOf) and ANY not in names.values:
            self.models = names.values
        self._refusal = None if rule.refuse is None else _refusal_of(rule.refuse)
        if rule.refuse is not None and settings != type(settings)():
            raise ValueError("it has set and refuse; a refused request has no settings")
        self._timeout_s = _seconds("set.timeout", settings.timeout)
        said = settings.timeout, settings.priority, settings.service, settings.group, settings.shadow
        self.is_open = any(said)

    def __repr__(self) -> str:
        return f"<CompiledRule {self.rule.name!r}>"

    @property
    def names(self) -> set[str]:
        """Return the models that it names, without labels."""
        said = self.rule.settings
        return {*(self.models or ()), *(to.partition("@")[0] for to in (said.model, said.shadow) if to)}

    def matches(self, facts: Facts) -> bool | None:
        """Return whether all conditions hold; None = not known yet."""
        is_known = True
        for condition in self.conditions:
            holds = condition.holds(facts)
            if holds is False:
                return False
            is_known = is_known and holds is not None
        return True if is_known else None

    def change(self, model: str, version: str) -> Change:
        """Return what it changes of a request for this model and version."""
        said = self.rule.settings
        if said.model:
            model, version = said.model, said.version  # the caller's version is of another model
        elif said.version:
            model, version = model.partition("@")[0], said.version
        return Change(model, version, self._refusal, self._timeout_s, said.priority, said.service, said.group)

    def covers(self, later: "CompiledRule") -> bool:
        """Return whether it matches all that a later rule matches, so that this one never decides."""
        theirs = later.wanted
        return all(wanted.covers(theirs.get(field)) for field, wanted in self.wanted.items())


def _refusal_of(refusal: Refusal) -> Callable[[], errors.SalverError]:
    """Return the maker of a rule's errors. Raises ValueError."""
    kind, seconds = _ERRORS[refusal.code], _seconds("refuse.retry_after", refusal.retry_after)
    if seconds and not issubclass(kind, errors.Overloaded | errors.RateLimited):
        raise ValueError("refuse.retry_after is only for overloaded and rate_limited")

    def make() -> errors.SalverError:
        error = kind(refusal.message)
        error.why = ""  # that of an overload would say that something here is full
        if seconds and isinstance(error, errors.Overloaded | errors.RateLimited):
            error.retry_after = seconds
        return error

    return make


class RuleTable:
    """Rules in their order, by the model that is asked.

    Raises:
        InvalidInput: some are wrong; the message names each.

    Attributes:
        headers: Lower-case names of the headers that rules read, each with the name of its trait.
    """

    def __init__(self, rules: Sequence[Rule] = (), origin: str = "rules") -> None:
        self.rules: list[CompiledRule] = []
        problems = []
        for rule in rules:
            try:
                compiled = CompiledRule(rule)
            except ValueError as error:
                problems.append(f"rule {rule.name!r}: {error}")
                continue
            for earlier in self.rules:
                if earlier.rule.name == rule.name:
                    problems.append(f"rule {rule.name!r} is there twice")
                elif earlier.covers(compiled):
                    text = f"never decides: {earlier.rule.name!r} before it matches all of its requests"
                    problems.append(f"rule {rule.name!r} {text}")
                    break
            self.rules.append(compiled)
        if problems:
            raise errors.InvalidInput(f"{origin}: {'; '.join(problems)}")
        names = {name for each in self.rules for name in each.models or ()}
        self._of_all = tuple(each for each in self.rules if each.models is None)
        self._by_model = {
            name: tuple(each for each in self.rules if each.models is None or name in each.models)
            for name in names
        }
        headers = {name for each in self.rules for name in each.rule.when.header}
        self.headers: Mapping[bytes, str] = {name.encode(): HEADER + name for name in headers}

    def __repr__(self) -> str:
        return f"<RuleTable of {len(self.rules)} rules>"

    def of(self, model: str) -> Sequence[CompiledRule]:
        """Return the rules that may match requests for a model."""
        return self._by_model.get(model, self._of_all)


def decide(rules: Sequence[CompiledRule], facts: Facts) -> CompiledRule | Verdict | None:
    """Return the first rule that matches; None = none does, ``OPEN`` = the decoded request decides."""
    for rule in rules:
        matches = rule.matches(facts)
        if matches is None:
            return Verdict.OPEN
        if matches:
            return rule
    return None


def explain(table: RuleTable, facts: Facts) -> list[tuple[str, str, str]]:
    """Return for each rule its name, whether it ``decides``, is ``passed`` or ``not reached``, and why.

    Args:
        facts: All facts of a decoded request.
    """
    found, is_over = [], False
    for each in table.rules:
        told = [(c, c.holds(facts)) for c in each.conditions]
        failed = next((c for c, holds in told if not holds), None)
        if is_over:
            found.append((each.rule.name, "not reached", ""))
        elif failed is not None:
            why = f"{failed.field} is {failed.read(facts)!r}, not {failed.wanted}"
            if failed.field == "hours":
                why = f"the time is not within {failed.wanted}"
            found.append((each.rule.name, "passed", why))
        else:
            is_over = True
            why = ", ".join(f"{c.field} {c.wanted}" for c in each.conditions)
            found.append((each.rule.name, "decides", why or "it has no conditions"))
    return found


def parse(content: bytes, origin: str) -> RuleTable:
    """Return the rules of a file.

    Args:
        origin: Its path, for messages.

    Raises:
        InvalidInput: it is no TOML, or some rules are wrong.
    """
    try:
        document = msgspec.convert(read_document(content, origin)[0], Document)
    except msgspec.ValidationError as error:
        raise errors.InvalidInput(f"{origin}: {error}") from error
    return RuleTable(document.rules, origin)


def _seconds(field: str, text: str) -> float:
    """Return the seconds of a duration; 0 without one."""
    try:
        return milliseconds(text) / 1e3 if text else 0.0
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
