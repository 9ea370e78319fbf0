"""What Prometheus is told of releases."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rollout_releases import POLICY, buckets, judged

from salver.features.releases.gauges import ReleaseGauges
from salver.features.releases.judge.bets import Bets
from salver.features.releases.judge.record import Release, proposed
from salver.words.releases import ReleaseState

PROPOSED = proposed("r0", "fraud", ("7", "8"), POLICY, 0.0)
WHO = {"release": "r0", "model": "fraud", "version": "8"}


def told(releases: Sequence[Release], shares: dict[str, float] | None = None, silence: float = 0.5) -> Any:
    """A registry of Prometheus's, of a server that knows these."""
    registry = CollectorRegistry(auto_describe=False)
    known = SimpleNamespace(known=releases, shares=shares or {}, silence=lambda: silence)
    registry.register(ReleaseGauges(known))
    return registry


def under_way(**what: Any) -> Release:
    """With so many buckets as evidence; see :func:`buckets`."""
    evidence, _ = judged(buckets(**what), until=lambda verdict: False)
    return msgspec.structs.replace(PROPOSED, state=ReleaseState.RUNNING, evidence=evidence)


def test_a_release_has_a_share_a_state_units_and_evidence() -> None:
    release = under_way(number=3)
    paused = msgspec.structs.replace(release.progress, pauses=2)
    registry = told([msgspec.structs.replace(release, progress=paused)], {"r0": 0.1})
    ask = registry.get_sample_value
    assert ask("salver_release_pauses", WHO) == 2
    assert ask("salver_release_share", WHO) == 0.1
    assert [ask("salver_release_units", {**WHO, "arm": arm}) for arm in ("canary", "baseline", "stable")] == [
        600,
        600,
        4800,
    ]
    states = {state: ask("salver_release_state", {**WHO, "state": state.value}) for state in ReleaseState}
    assert states == {state: float(state is ReleaseState.RUNNING) for state in ReleaseState}
    enough = 1 / POLICY.alpha
    assert ask("salver_release_harm", WHO) == pytest.approx(math.exp(release.evidence.log_e(POLICY)) / enough)
    assert ask("salver_release_harm", WHO) < 1
    assert ask("salver_ledger_silence_seconds", {}) == 0.5


def test_harm_that_rolls_back_is_one_and_more() -> None:
    evidence, verdicts = judged(buckets(number=120, ratios={"errors": 3.0}))
    assert verdicts[-1].decision == "rollback"
    release = msgspec.structs.replace(PROPOSED, state=ReleaseState.ROLLED_BACK, evidence=evidence)
    assert told([release]).get_sample_value("salver_release_harm", WHO) >= 0.5  # one metric alone may decide


def test_evidence_without_end_is_a_number_yet() -> None:
    """Whose exponential is no float."""
    release = under_way(number=3)
    errors, slow = release.evidence.metrics
    assert errors.counts is not None
    without_end = Bets((1e4,) * len(Bets().log_sums))
    blocks = msgspec.structs.replace(errors.counts.blocks, bets=without_end)
    counts = msgspec.structs.replace(errors.counts, first=without_end, blocks=blocks)
    metrics = (msgspec.structs.replace(errors, counts=counts), slow)
    evidence = msgspec.structs.replace(release.evidence, metrics=metrics)
    registry = told([msgspec.structs.replace(release, evidence=evidence)])
    assert registry.get_sample_value("salver_release_harm", WHO) == pytest.approx(1e9)


def test_of_one_that_another_salver_wrote_no_evidence_is_told() -> None:
    registry = told([msgspec.structs.replace(under_way(number=3), fault="a newer one wrote it")])
    assert registry.get_sample_value("salver_release_share", WHO) == 0
    assert registry.get_sample_value("salver_release_harm", WHO) is None
    assert registry.get_sample_value("salver_release_units", {**WHO, "arm": "canary"}) is None


def test_without_releases_the_page_is_whole() -> None:
    assert b"salver_ledger_silence_seconds 0.5" in generate_latest(told([]))
