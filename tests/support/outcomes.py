"""A collector of release outcomes with its sink and clock, and the events that it reads."""

from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.seen_units import CollectorConfig
from salver.features.releases.experiments.underway import ActiveRequests
from salver.words.events import Responded, Served
from salver.words.messages import Timing
from salver.words.releases import (
    Arm,
    Assignment,
)

SMALL = CollectorConfig(units=10_000)


class CollectorWorld:
    """A sink and a clock."""

    def __init__(self, config=SMALL, follows=("r1",)):
        self.now = 1000.0
        self.seen = []
        self.under_way = ActiveRequests(lambda: self.now)
        self.warnings = []
        self.collector = Collector(self, lambda: self.now, config, self.under_way, self.warn)
        for release in follows:
            self.collector.follow(release)

    def warn(self, text, *values):
        self.warnings.append(text % values)

    def write(self, seen):
        self.seen.append(seen)

    def serve(self, *told):
        """Events, and what versions answered."""
        self.collector.answers.extend(one for one in told if type(one) is Responded)
        self.collector.observe([one for one in told if type(one) is not Responded])

    def close(self):
        """Ten seconds later, the buckets that are over."""
        before = len(self.seen)
        self.now += 10
        self.collector.tick()
        return self.seen[before:]


def happened_in(counts):
    """What happened, without the zeros of what did not."""
    return {name: some for name, some in counts.items() if some.total}


def served(unit="ada", arm=Arm.CANARY, outcome="ok", latency=0.01, **more):
    version = "2" if arm is Arm.CANARY else "1"
    changes = {"reason": "hash", "stage": 0, "propensity": 0.25, "has_unit": True, "release": "r1", **more}
    answered, why = changes.pop("answered", version), changes.pop("why", "")
    release, reason = changes.pop("release"), changes.pop("reason")
    assigned = Assignment(release, arm, version, reason, changes.pop("propensity"), **changes)
    return Served(
        "m", answered, "oip-http", outcome, latency, Timing(), why=why, assignment=assigned, unit=unit
    )
