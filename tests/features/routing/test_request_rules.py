"""Rules on requests: what is wrong with a file, and which one decides."""

from collections import Counter
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salver.features.routing.rules.conditions import Facts
from salver.features.routing.rules.copies import Copies
from salver.features.routing.rules.document import Rule
from salver.features.routing.rules.stage import RuledRequest, RuleStage
from salver.features.routing.rules.table import CompiledRule, RuleTable, Verdict, decide, explain, parse
from salver.kernel.serving.inner import ALONE
from salver.words.errors import Code, InvalidInput, Overloaded
from salver.words.messages import Call, InferRequest, Parameter, Standing
from salver.words.sizes import byte_count
from salver.words.tensor import tensor

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC).timestamp()


def rules(text: str) -> RuleTable:
    return parse(text.encode(), "rules.toml")


def rule(text: str) -> str:
    return f'[[rules]]\nname = "a"\n{text}\n'


WRONG = [
    ("rules = 3", "Expected `array`, got `int` - at `$.rules`"),
    ("[[rules]]", "missing required field `name` - at `$.rules[0]`"),
    (rule("when = { models = 'm' }"), "unknown field `models` - at `$.rules[0].when`"),
    (rule("when = { header.X-Plan = 'gold' }"), "when.header.X-Plan has capital letters; write x-plan"),
    (rule("when = { rows = '64' }"), "rule 'a': when.rows is '64', and not a comparison such as '> 64'"),
    (rule("when = { rows = '> 1.5' }"), "rule 'a': when.rows is '> 1.5'"),
    (rule("when = { size = '> 1 mile' }"), "when.size is '> 1 mile', and not a comparison such as '> 1MiB'"),
    (rule("when = { hours = '8-9' }"), "when.hours is '8-9', and not such as '22:00-06:00 Europe/Berlin'"),
    (rule("when = { hours = '08:00-08:00' }"), "which is no time at all"),
    (rule("when = { hours = '08:00-09:00 ../etc' }"), "there is no time zone '../etc'"),
    (rule("when = { hours = '08:00-09:00 Mars/Olympus' }"), "there is no time zone 'Mars/Olympus'"),
    (rule("set = { timeout = '5' }"), "rule 'a': set.timeout: '5' is not a positive time with a unit"),
    (rule("set = { class = 'gold' }"), "Invalid enum value 'gold' - at `$.rules[0].set.class`"),
    (
        rule("set = { priority = 1 }\nrefuse = { code = 'forbidden', message = 'no' }"),
        "it has set and refuse",
    ),
    (rule("refuse = { code = 'internal', message = 'no' }"), "Invalid enum value 'internal'"),
    (
        rule("refuse = { code = 'forbidden', message = 'no', retry_after = '1s' }"),
        "refuse.retry_after is only for",
    ),
    (rule("when = { model = 'm' }") + rule("when = { model = 'n' }"), "rule 'a' is there twice"),
    (
        rule("when = { model = ['m', 'n'], rows = '> 4' }")
        + "[[rules]]\nname = 'b'\nwhen = { model = 'm', rows = '> 5', tenant = 't' }",
        "rule 'b' never decides: 'a' before it matches all of its requests",
    ),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_file_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        rules(text)
    assert message in caught.value.message
    assert caught.value.message.startswith("rules.toml: ")


def test_all_wrong_rules_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        rules("[[rules]]\nname = 'a'\nwhen.rows = '4'\n[[rules]]\nname = 'b'\nset.timeout = '4'")
    assert "rule 'a': when.rows" in caught.value.message
    assert "rule 'b': set.timeout" in caught.value.message


# -- which one decides --

_TEXT = st.sampled_from(["", "u", "v", "*"])
_TEXTS = _TEXT | st.lists(_TEXT, max_size=2)
_VALUES = st.sampled_from([1, True, 1.5, "u", "true"])
_COMPARED = st.builds("{} {}".format, st.sampled_from(["<", "<=", "=", ">=", ">"]), st.integers(0, 4))
_ZONES = {"": 0, " UTC": 0, " Asia/Tokyo": 540, " Etc/GMT+5": -300}
_HOUR = st.integers(0, 23).map("{:02}:30".format)
_HOURS = st.tuples(_HOUR, _HOUR, st.sampled_from(sorted(_ZONES))).filter(lambda some: some[0] != some[1])
WHEN = st.fixed_dictionaries(
    {},
    optional={
        "model": _TEXTS,
        "version": _TEXTS,
        "tenant": _TEXTS,
        "header": st.dictionaries(st.sampled_from(["h", "g"]), _TEXTS, max_size=2),
        "parameter": st.dictionaries(
            st.sampled_from(["p", "q"]), _VALUES | st.lists(_VALUES, max_size=2), max_size=2
        ),
        "hours": _HOURS.map(lambda some: f"{some[0]}-{some[1]}{some[2]}"),
        "rows": _COMPARED,
        "size": _COMPARED.map(lambda text: f"{text} KiB"),
    },
)
FACTS = st.builds(
    Facts,
    st.sampled_from(["u", "v"]),
    st.sampled_from(["", "u", "v"]),
    st.integers(0, 1439).map(lambda minute: 60.0 * minute),
    st.dictionaries(st.sampled_from(["header:h", "header:g"]), st.sampled_from(["u", "v"])),
    st.sampled_from(["", "u", "v"]),
    st.dictionaries(st.sampled_from(["p", "q"]), _VALUES),
    st.integers(0, 5),
    st.integers(0, 5 << 10),
)


def is_wanted(wanted: object, value: str) -> bool:
    texts = [str(each).lower() if isinstance(each, bool) else str(each) for each in _listed(wanted)]
    return value in texts or ("*" in texts and value != "")


def _listed(values: object) -> list[object]:
    return [*values] if isinstance(values, list) else [values]


def is_matched(when: dict[str, object], facts: Facts) -> bool:
    """Interpret a rule's conditions, word by word."""
    for key, wanted in when.items():
        if key in ("model", "version", "tenant"):
            ok = wanted == [] or is_wanted(wanted, getattr(facts, key))
        elif key == "header":
            ok = all(is_wanted(some, facts.traits.get(f"header:{name}", "")) for name, some in wanted.items())  # type: ignore[attr-defined]
        elif key == "parameter":
            ok = all(is_wanted(some, _text(facts.parameters, name)) for name, some in wanted.items())  # type: ignore[attr-defined]
        elif key == "hours":
            ok = _is_within(str(wanted), facts.now)
        else:
            operator, number = str(wanted).split(" ", 1)
            said = facts.rows if key == "rows" else facts.size
            python = "==" if operator == "=" else operator
            ok = eval(f"{said} {python} {byte_count(number)}")
        if not ok:
            return False
    return True


def _text(parameters: dict[str, Parameter], name: str) -> str:
    value = parameters.get(name, "")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_within(text: str, now: float) -> bool:
    hours, _, zone = text.partition(" ")
    first, last = (int(each[:2]) * 60 + 30 for each in hours.split("-"))
    minute = int(now // 60 + _ZONES[f" {zone}" if zone else ""]) % 1440
    span = (last - first) % 1440
    return (minute - first) % 1440 < span


def made(whens: list[dict[str, object]]) -> list[Rule]:
    return [msgspec.convert({"name": f"{number}", "when": when}, Rule) for number, when in enumerate(whens)]


@given(st.lists(WHEN, max_size=4), FACTS)
def test_compiled_rules_decide_as_their_text_says(whens: list[dict[str, object]], facts: Facts) -> None:
    expected = next((f"{n}" for n, when in enumerate(whens) if is_matched(when, facts)), None)
    compiled = [CompiledRule(each) for each in made(whens)]
    found = decide(compiled, facts)
    assert (found.rule.name if isinstance(found, CompiledRule) else found) == expected


@given(st.lists(WHEN, max_size=4), FACTS)
def test_what_is_decided_before_the_body_is_known_holds_after_it(
    whens: list[dict[str, object]], facts: Facts
) -> None:
    compiled = [CompiledRule(each) for each in made(whens)]
    head = msgspec.structs.replace(facts, tenant=facts.tenant or None, parameters=None, rows=None, size=None)
    early = decide(compiled, head)
    assert early in (Verdict.OPEN, decide(compiled, facts))


@given(WHEN, WHEN, FACTS)
def test_a_rule_that_covers_another_matches_all_of_its_requests(
    one: dict[str, object], other: dict[str, object], facts: Facts
) -> None:
    first, second = (CompiledRule(each) for each in made([one, other]))
    if first.covers(second) and second.matches(facts):
        assert first.matches(facts)


@given(st.lists(WHEN, max_size=4), FACTS)
@example([{"model": "v"}, {"model": "*"}], Facts("u", "", 0.0, {}, "", {}, 0, 0))
def test_the_table_leaves_out_only_rules_of_other_models(
    whens: list[dict[str, object]], facts: Facts
) -> None:
    try:
        table = RuleTable(made(whens))
    except InvalidInput as error:
        assert "never decides" in error.message
        return
    whole = decide(table.rules, facts)
    assert decide(table.of(facts.model), facts) is whole
    decided = [name for name, outcome, _ in explain(table, facts) if outcome == "decides"]
    assert decided == ([whole.rule.name] if isinstance(whole, CompiledRule) else [])


TWO = """
[[rules]]
name = "gold at night"
when = { model = "ranker", header.x-plan = "gold", hours = "22:00-06:00 Europe/Berlin", rows = "> 64" }
set = { model = "ranker-big", timeout = "200ms", priority = 1 }
[[rules]]
name = "large and free"
when = { tenant = "free", size = "> 1MiB" }
refuse = { code = "overloaded", message = "too large for this plan", retry_after = "90s" }
"""


def test_each_rule_is_explained() -> None:
    facts = Facts("ranker", "", NOON, {"header:x-plan": "gold"}, "free", {}, 100, 2 << 20)
    assert explain(rules(TWO), facts) == [
        ("gold at night", "passed", "the time is not within 22:00-06:00 Europe/Berlin"),
        ("large and free", "decides", "tenant free, size > 1MiB"),
    ]
    other = msgspec.structs.replace(facts, now=NOON + 10 * 3600, rows=64)
    assert explain(rules(TWO), other)[0] == ("gold at night", "passed", "rows is 64, not > 64")
    night = msgspec.structs.replace(other, rows=65)
    assert explain(rules(TWO), night)[1] == ("large and free", "not reached", "")


# -- the stage --

ROWS = InferRequest("ranker", (tensor("x", np.ones((65, 2), "float32")),))


def staged(text: str, now: float = NOON) -> RuleStage:
    stage = RuleStage(Copies(ALONE, lambda: 0.0), lambda: now)
    stage.table = rules(text)
    return stage


def test_a_request_is_decided_once_its_body_is_known_and_counted_once() -> None:
    stage = staged(TWO, NOON + 10 * 3600)
    call = Call("oip-http", 0.0, traits={"header:x-plan": "gold"})
    first = stage.begin("ranker", "1", call)
    assert first is not None and first.is_open and first.change is None
    assert first.end(has_begun=False) is None
    assert stage.matched == Counter()
    settled = first.settled(ROWS)
    assert settled.change is not None
    assert (settled.change.model, settled.change.version) == ("ranker-big", "")
    assert (settled.change.timeout_s, settled.change.priority) == (0.2, 1)
    settled.end()
    assert stage.matched == {"gold at night": 1}
    assert first.settled(msgspec.structs.replace(ROWS, inputs=())) is first


def test_a_refusal_is_made_anew_for_each_request() -> None:
    stage = staged(TWO.replace('size = "> 1MiB"', 'model = ["m", "n"]'))
    call = Call("oip-http", 0.0, standing=Standing("free"))
    passage = stage.begin("m", "", call)
    assert isinstance(passage, RuledRequest) and not passage.is_open
    assert passage.change is not None and passage.change.refusal is not None
    one, other = passage.change.refusal(), passage.change.refusal()
    assert one is not other
    assert isinstance(one, Overloaded)
    assert (one.code, one.message, one.retry_after, one.why) == (
        Code.OVERLOADED,
        "too large for this plan",
        90.0,
        "",
    )


@pytest.mark.parametrize(("model", "version"), [("ranker", "gold"), ("ranker@gold", ""), ("ranker", "3")])
def test_a_label_is_matched_however_it_is_named(model: str, version: str) -> None:
    stage = staged(rule("when = { model = 'ranker', version = ['gold', '3'] }\nset = { version = '4' }"))
    passage = stage.begin(model, version, Call("oip-http", 0.0))
    assert passage is not None and passage.change is not None
    assert (passage.change.model, passage.change.version) == ("ranker", "4")


def test_what_the_server_asks_its_own_models_is_ruled_no_further() -> None:
    stage = staged(rule("set = { model = 'other' }"))
    call = Call("ensemble", 0.0)
    assert stage.begin("ranker", "", call) is not None
    assert not stage.inherit(call)
    assert stage.begin("ranker", "", call) is None
