"""What may an owner ask for, and what is said to one who asks for nonsense?"""

import math
import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.releases.judge.policy import DEFAULT_METRICS, Kind, Metric, Policy, Stage
from salver.features.releases.judge.rules import Approval, Blackout, Coverage, Never, Rule
from salver.features.releases.judge.shadowing import Alike
from salver.words.errors import InvalidInput


def test_the_defaults_are_a_policy_that_spends_all_of_its_alpha() -> None:
    policy = Policy()
    assert [stage.weight for stage in policy.stages] == [0.01, 0.05, 0.25, 1.0]
    assert [stage.minutes for stage in policy.stages] == [10, 30, 60, 0]
    assert math.fsum(policy.shares) == pytest.approx(1)
    assert policy.shares == pytest.approx((*(0.18,) * 5, 0.05, 0.05))
    assert {metric.severity for metric in DEFAULT_METRICS} == {"severe", "soft"}


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=5))
def test_what_metrics_leave_of_alpha_is_shared_out(given_shares: list[float]) -> None:
    metrics = [Metric(f"m{n}", "rule", "soft", share=share) for n, share in enumerate(given_shares)]
    policy = Policy(metrics=(*metrics, Metric("rest", "rule", "soft")))
    assert math.fsum(policy.shares) == pytest.approx(1)
    assert all(
        spent == share if share else spent > 0
        for spent, share in zip(policy.shares, given_shares, strict=False)
    )


def test_a_policy_survives_its_json() -> None:
    policy = Policy(
        stages=(Stage(0.1, 5), Stage(0.5, 5, sample=3, margin_times=2)),
        metrics=(Metric("sales", "outcome", "soft", 0.05, worse="less", matures_minutes=60),),
        rules=(
            Blackout(days=(4,), start="16:00"),
            Approval(1, by=("ann",)),
            Never("leak"),
            Coverage(2, (9,)),
        ),
    )
    assert Policy.from_json(policy.to_json()) == policy
    assert b'"ships_on_budget":false' in policy.to_json()  # what is a default is written, too
    assert Policy.from_json("{}") == Policy()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"alhpa": 0.01}', "unknown field `alhpa`"),
        ('{"alpha": 0}', "alpha is 0.0.*in \\(0, 1\\)"),
        ('{"beta": 1}', "beta is 1.0"),
        ('{"split_alpha": "x"}', "split_alpha"),
        ('{"bucket_seconds": 0}', "bucket_seconds is 0.0.*from 0.1 to 86400"),
        ('{"bucket_seconds": 0.09}', "bucket_seconds is 0.09"),
        ('{"bucket_seconds": 86401}', "bucket_seconds is 86401"),
        ('{"hold_minutes": 0}', "hold_minutes is 0.0.*above 0"),
        ('{"warm_up_seconds": -1}', "warm_up_seconds is -1.0.*0 or more"),
        ('{"after_hold": "pray"}', "after_hold"),
        ('{"stages": []}', "the stages have the weights"),
        ('{"stages": [{"weight": 0.5, "minutes": 1}, {"weight": 0.1, "minutes": 1}]}', "Let them grow"),
        ('{"stages": [{"weight": 0.5, "minutes": 1}, {"weight": 0.5, "minutes": 1}]}', "Let them grow"),
        ('{"stages": [{"weight": 0, "minutes": 1}]}', "Say in traffic.shadow"),
        ('{"stages": [{"weight": -0.1, "minutes": 1}]}', "above 0 and up to 1"),
        ('{"alike": {"least": 1}}', "alike.least"),
        ('{"stages": [{"weight": 1.5, "minutes": 1}]}', "above 0 and up to 1"),
        ('{"stages": [{"weight": 0.5, "minutes": -1}]}', r"stages\[0\] lasts -1.0 minutes"),
        (f'{{"stages": [{{"weight": 0.5, "minutes": 1, "sample": {10**16}}}]}}', r"stages\[0\] lasts"),
        ('{"metrics": []}', "Name one or more"),
        ('{"rules": [{"type": "cost_cap", "most": 5}]}', "request"),
        ('{"rules": [{"type": "cost_cap", "most": 5, "request": 0}]}', "caps nothing"),
        ('{"rules": [{"type": "cost_cap", "most": -1, "request": 1}]}', "caps nothing"),
        ('{"rules": [{"type": "blackout", "utc_offset_minutes": 1441}]}', "1441 minutes"),
        ('{"rules": [{"type": "blackout", "utc_offset_minutes": -1441}]}', "-1441 minutes"),
        ('{"rules": [{"type": "horoscope"}]}', "rules"),
        ('{"rules": [{"type": "blackout", "start": "25:00"}]}', "not a time of day"),
        ('{"rules": [{"type": "blackout", "days": [7]}]}', "not days of the week"),
        ('{"rules": [{"type": "blackout", "since": 5, "until": 3}]}', "ends before it begins"),
        ('{"rules": [{"type": "coverage", "stage": 1, "hours": [168]}]}', "not hours of a week"),
        ('{"alpa": 1}', "unknown field `alpa`.*Fields: stages, metrics, alpha, "),
        ('{"stages": [{"weight": 1}]}', "missing required field `minutes`.*Fields: weight, minutes, "),
        ('{"metrics": [{"name": "a", "kind": "error", "severity": "soft"}]}', "Say one of: errors, timeouts"),
        ('{"traffic": {"unit": 1}}', "unknown field `unit`.*Fields: units, layer"),
        ('{"traffic": {"units": ["x-user-id"]}}', "'x-user-id' is not a source of units.*Say header:NAME"),
        ('{"rules": [{"type": "horoscope"}]}', "Say one of: .*approval"),
        ("[", "not a valid release policy"),
    ],
)
def test_nonsense_is_refused_with_its_name_and_a_way_out(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        Policy.from_json(text)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "no name"),
        ({"rollback_margin": -0.1}, "rollback margin is -0.1"),
        ({"promotion_margin": 0.0}, "cannot be proven"),
        ({"negligible": 1.0}, "negligible rate is 1.0"),
        ({"negligible": 0.1, "kind": "outcome"}, "of 'outcome' no rate is negligible"),
        ({"share": 1.5}, "share of alpha is 1.5"),
        ({"kind": "latency"}, "quantile is 0.0"),
        ({"quantile": 0.5}, "quantile is 0.5"),
        ({"kind": "output", "bins": 1}, "1 bins"),
        ({"kind": "output", "bins": 101}, "101 bins"),
        ({"kind": "mean"}, "cap is 0"),
        ({"cap": 1.0}, "cap is 1.0"),
        ({"kind": "mean", "cap": 1.1e15}, "cap is 1100000000000000"),
        ({"matures_minutes": 5.0}, "Only outcomes mature"),
        ({"worse": "less"}, "less of 'errors' is not worse"),
        ({"kind": "outcome", "worse": "less", "rollback_margin": 1.0}, "below 1 where less is worse"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        msgspec.structs.replace(Metric("errors", "errors", "severe"), **changes)
    assert caught.value.field and caught.value.fix


@pytest.mark.parametrize("shares", [(0.7, 0.5), (1.0, 0.0), (0.5, 0.5, 0.0)])
def test_alpha_is_spent_once(shares: tuple[float, ...]) -> None:
    metrics = tuple(Metric(f"m{n}", "rule", "soft", share=share) for n, share in enumerate(shares))
    with pytest.raises(InvalidInput, match="sum 1 at most"):
        Policy(metrics=metrics)


def test_two_metrics_have_two_names() -> None:
    with pytest.raises(InvalidInput, match="each once"):
        Policy(metrics=(Metric("a", "rule", "soft"), Metric("a", "errors", "soft")))
    score = Metric("a", "output", "soft", bins=3)
    with pytest.raises(InvalidInput, match="none as a bin"):  # their counts would be one
        Policy(metrics=(score, Metric("a.2", "rule", "soft")))
    assert Policy(metrics=(score, Metric("a.3", "rule", "soft")))


def test_latency_is_held_against_the_matched_baseline_and_nothing_else_is() -> None:
    assert [metric.name for metric in Policy().metrics if metric.is_matched] == ["latency_p99"]


PAGE = Path(__file__).parents[3] / "docs" / "reference" / "release-policy.md"


def section(title: str) -> str:
    return PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("title", "kind"), [("Policy", Policy), ("Stages", Stage), ("Metrics", Metric), ("Alike", Alike)]
)
def test_the_reference_has_every_field_with_its_default(title: str, kind: type[msgspec.Struct]) -> None:
    rows = [line.split(" | ") for line in section(title).splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == list(kind.__struct_fields__)
    for row, field in zip(rows, msgspec.structs.fields(kind), strict=True):
        default = field.default
        if isinstance(default, bool | int | float | str):
            expected = (
                default if isinstance(default, str) else msgspec.json.decode(msgspec.json.encode(default))
            )
            found = row[1].strip(" `")
            assert (found if isinstance(default, str) else msgspec.json.decode(found)) == expected, field.name


def test_the_reference_has_every_rule_with_its_fields_and_every_kind() -> None:
    text = section("Rules")
    for rule in typing.get_args(Rule):
        assert f"| `{rule.__struct_config__.tag}` |" in text
        assert all(f"`{name}`" in text for name in rule.__struct_fields__)
    assert all(f"`{kind}`" in section("Metrics") for kind in typing.get_args(Kind))


def test_the_reference_shows_a_policy() -> None:
    shown = PAGE.read_text().partition("```json\n")[2].partition("```")[0]
    assert Policy.from_json(shown).rules == (Approval(2, by=("ann",)),)
