"""Limits that a server declares for tenants, models and itself, beside those of keys. Pure."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from salver.features.access.limits import Holder, LimitRules, Limits
from salver.words.errors import InvalidInput

#: Most tenants, or models, that have limits of a pattern by themselves.
_MOST: Final = 4096
#: Pause between two looks for those that are idle.
_SWEEP_NS: Final = 1_000_000_000


class DeclaredLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits as they stand in the file.

    Attributes:
        server: All requests together; None = no limit.
        tenants: By name, or by a pattern in which ``*`` stands for any letters. The exact name counts, or
            else the first pattern that matches; each tenant that matches has these limits for itself.
        models: The same of models.
    """

    server: LimitRules | None = None
    tenants: Mapping[str, LimitRules] = {}
    models: Mapping[str, LimitRules] = {}

    def places(self) -> Iterator[tuple[tuple[str, ...], LimitRules]]:
        """Return each table with its place, such as ``("tenants", "acme")``."""
        if self.server is not None:
            yield ("server",), self.server
        for name, rules in self.tenants.items():
            yield ("tenants", name), rules
        for name, rules in self.models.items():
            yield ("models", name), rules

    def of(self, holder: Holder, name: str) -> LimitRules | None:
        """Return the limits of a holder by its name here, or its pattern; None = it has none."""
        if holder == "server":
            return self.server
        found: Mapping[str, LimitRules] = getattr(self, f"{holder}s")
        return found.get(name)

    def with_those_of(self, holder: Holder, name: str, rules: LimitRules | None) -> "DeclaredLimits":
        """Return the limits with others for one holder; None = it has none.

        Raises:
            InvalidInput: the rules are wrong, or the name is missing.
        """
        if (holder == "server") == bool(name):
            raise InvalidInput("limits are those of a named tenant or model, or of the server", field="name")
        if holder == "server":
            changed = DeclaredLimits(rules, self.tenants, self.models)
        else:
            held = {**getattr(self, f"{holder}s"), name: rules}
            kept = {each: found for each, found in held.items() if found is not None}
            changed = msgspec.structs.replace(self, **{f"{holder}s": kept})
        LimitBook(changed)
        return changed

    def before(self, others: "DeclaredLimits") -> "DeclaredLimits":
        """Return these limits, and those of others for whom there are none here.

        These stand first, as the first pattern that matches counts.
        """
        tenants = {**self.tenants, **others.tenants, **self.tenants}
        models = {**self.models, **others.models, **self.models}
        return DeclaredLimits(self.server or others.server, tenants, models)


#: No limits.
NONE: Final = DeclaredLimits()


class _NamedLimits:
    """Limits of tenants, or of models, by name.

    Args:
        dropped: Called when limits have been dropped, so that nobody keeps them.
    """

    def __init__(self, rules: Mapping[str, LimitRules], holder: Holder, dropped: Callable[[], None]) -> None:
        self._holder: Holder = holder
        self._dropped = dropped
        self._rules = rules
        #: With the limits that names share for which there is no room.
        self._patterns = [
            (re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL), each, Limits(each, holder))
            for name, each in rules.items()
            if "*" in name
        ]
        self._known = {name: Limits(each, holder) for name, each in rules.items() if "*" not in name}
        self.has_any = bool(rules)
        self._swept_at = 0

    def keep(self, before: "_NamedLimits") -> None:
        """Keep the limits of names whose rules are as before."""
        for name, limits in before._known.items():
            found = self._find(name)
            if found is not None and found[0] == limits.rules:
                self._known[name] = limits

    def of(self, name: str, now: int) -> Limits | None:
        """Return the limits of a name; None = it has none."""
        found = self._known.get(name)
        if found is not None or not self._patterns:
            return found
        matching = self._find(name)
        if matching is None:
            return None
        if len(self._known) >= _MOST and not self._has_room(now):
            return matching[1]  # callers choose names: memory has to be bounded
        found = self._known[name] = Limits(matching[0], self._holder)
        return found

    def _find(self, name: str) -> tuple[LimitRules, Limits | None] | None:
        """Return the rules for a name, and the limits that those without room share."""
        if name in self._rules and "*" not in name:
            return self._rules[name], None
        for pattern, rules, shared in self._patterns:
            if pattern.fullmatch(name):
                return rules, shared
        return None

    def _has_room(self, now: int) -> bool:
        """Drop limits that are the same as new ones; return whether there is room for another name."""
        if now - self._swept_at >= _SWEEP_NS:
            self._swept_at = now
            for name, limits in list(self._known.items()):
                if name not in self._rules and limits.is_idle(now):
                    del self._known[name]
            self._dropped()
        return len(self._known) < _MOST


_generations = itertools.count(1)


class LimitBook:
    """All limits of a server but those of its keys.

    Attributes:
        generation: Another number than that of any book before, and whenever limits have been dropped.

    Args:
        before: Book that this one replaces; what is used of limits that stay as they were is kept.

    Raises:
        InvalidInput: a limit is wrong; the error names it.
    """

    def __init__(self, declared: DeclaredLimits = NONE, before: "LimitBook | None" = None) -> None:
        self.declared = declared
        for place, rules in declared.places():
            try:
                Limits(rules)
            except InvalidInput as error:
                raise InvalidInput(f"{error} (in limits.{'.'.join(place)})", field=error.field) from error
        of_server = {} if declared.server is None else {"": declared.server}
        self._tenants = _NamedLimits(declared.tenants, "tenant", self._renew)
        self._models = _NamedLimits(declared.models, "model", self._renew)
        self._server = _NamedLimits(of_server, "server", self._renew)
        self._renew()
        if before is not None:
            self._tenants.keep(before._tenants)
            self._models.keep(before._models)
            self._server.keep(before._server)
        #: Nothing is declared.
        self.is_empty = declared == NONE

    def __repr__(self) -> str:
        return f"<LimitBook {self.declared}>"

    def _renew(self) -> None:
        self.generation = next(_generations)

    @property
    def has_tenants(self) -> bool:
        """Whether tenants have limits."""
        return self._tenants.has_any

    def of(self, key: Limits | None, tenant: str, model: str, now: int) -> tuple[Limits, ...]:
        """Return the limits that apply to a run together, the narrowest first.

        Args:
            key: Limits of the caller's key.
            model: Empty = not known yet.
            now: Monotonic nanoseconds.
        """
        if self.is_empty:
            return () if key is None else (key,)
        found = [] if key is None else [key]
        for named, name in ((self._tenants, tenant), (self._models, model), (self._server, "")):
            # An empty name of a model is one that is not known yet.
            if named.has_any and (name or named is not self._models):
                limits = named.of(name, now)
                if limits is not None:
                    found.append(limits)
        return tuple(found)
