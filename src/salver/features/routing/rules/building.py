"""Parts of rules: the stage, and the file that is read again when it changes."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from salver.backends.loading import state_of
from salver.features.routing import RulesConfig
from salver.features.routing.rules.copies import Copies
from salver.features.routing.rules.operations import RulesView, RuleView, rule_operations
from salver.features.routing.rules.reading import read
from salver.features.routing.rules.stage import RuleStage
from salver.kernel.serving.inner import Inner, InnerPlane
from salver.lazy import lazy_imports
from salver.parts import Kernel, Parts, Tick
from salver.transport.ports import HeaderInterest
from salver.words.errors import SalverError

with lazy_imports():
    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

_LOG = logging.getLogger("salver.routing")
_LOOK_S: Final = 0.5


class WatchedRules:
    """Rules of a file that is read again when it changes.

    Attributes:
        problem: Why the rules in force are not those of the file; empty = they are.
    """

    def __init__(self, path: Path, kernel: Kernel) -> None:
        self.problem = ""
        self._path = path
        self._kernel = kernel
        self._seen: object = None
        self._interest: HeaderInterest = kernel.context.interest
        self.stage = RuleStage(Copies(Inner(self._quiet), kernel.clock), time.time)

    def __repr__(self) -> str:
        return f"<WatchedRules {self._path}>"

    def _quiet(self) -> InnerPlane:
        return self._kernel.door.quiet()

    @property
    def headers(self) -> Mapping[bytes, str]:
        """Headers that rules and releases read (:class:`~salver.transport.ports.HeaderInterest`)."""
        return {**self._interest.headers, **self.stage.table.headers}

    async def attach(self) -> None:
        """Put the stage on the path of requests, before the one that is there."""
        path = self._kernel.door.path
        self.stage.beneath = path.stage
        self._kernel.door.path = msgspec.structs.replace(path, stage=self.stage)

    async def read(self) -> None:
        """Read the file. Raises SalverError, and then changes nothing."""
        self._seen = await asyncio.to_thread(state_of, self._path)
        self.stage.table = table = await asyncio.to_thread(read, self._path)
        self.problem = ""
        _LOG.info("%d rules of %s are in force", len(table.rules), self._path)

    async def look(self) -> None:
        """Read the file if it has changed; one that is wrong is logged, and the rules stay as they were."""
        if await asyncio.to_thread(state_of, self._path) == self._seen:
            return
        try:
            await self.read()
        except SalverError as error:
            self.problem = str(error)
            _LOG.error("the rules stay as they are: %s", error)

    def view(self) -> RulesView:
        """Return the rules as they are shown."""
        known = {status.id.name for status in self._kernel.models.statuses()}
        stage = self.stage
        rules = [
            RuleView(each.rule, stage.matched[each.rule.name], sorted(each.names - known))
            for each in stage.table.rules
        ]
        return RulesView(str(self._path), self.problem, rules)

    def collect(self) -> Iterator[Metric]:
        """Return the metric families; called by the Prometheus registry."""
        matched = CounterMetricFamily(
            "salver_rules_matched", "Requests on which a rule has decided.", labels=["rule"]
        )
        copies = CounterMetricFamily(
            "salver_rules_copies", "Copies of requests for a rule's shadow.", labels=["rule", "outcome"]
        )
        for each in self.stage.table.rules:
            matched.add_metric([each.rule.name], self.stage.matched[each.rule.name])
        for key, count in self.stage.copies.counts.items():
            copies.add_metric(key, count)
        yield from (matched, copies)
        yield GaugeMetricFamily(
            "salver_rules_are_current",
            "Whether the rules in force are those of the file.",
            float(not self.problem),
        )


async def build(kernel: Kernel, config: RulesConfig) -> Parts:
    """Put the rules of a file on the path of requests.

    Raises:
        SalverError: the file cannot be read, or is wrong.
    """
    rules = WatchedRules(Path(config.file), kernel)
    await rules.read()
    kernel.context = msgspec.structs.replace(kernel.context, interest=rules)
    return Parts(
        collectors=[rules],
        operations=rule_operations(rules.view),
        prepare=rules.attach,
        ticks=[Tick("rules", _LOOK_S, rules.look)],
        look=rules.look,
        stop=rules.stage.copies.close,
        optional={"rule-shadows": rules.stage.copies.switch},
    )
