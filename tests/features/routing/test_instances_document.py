"""Reading of ``instances.toml``, loading, and the checks of instances."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from salver.client import Client
from salver.client.http import Unreachable
from salver.features.routing.checking import Expected, InstanceCheck, check
from salver.features.routing.document import MOST, InstanceTable, ProbeTable, parse
from salver.features.routing.instances import Instance
from salver.features.routing.loading import InstancesLoader
from salver.features.routing.probing import Probe, mismatch, read_probe
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, LoadFailed, ModelFailed, Overloaded
from salver.words.messages import ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor, tensor

PROBE = '[probe]\nrequest = "probe.json"\nexpect = "expected.json"\n'


def test_urls_and_tables() -> None:
    text = """
        instances = ["http://a:8000/", {url = "https://b", weight = 2}]
        policy = "consistent-hash"
        key = "user"
        [ejection]
        failures = 5
    """
    found = parse(text.encode(), "f")
    assert found.tables == [InstanceTable("http://a:8000/"), InstanceTable("https://b", 2)]
    assert (found.policy, found.ejection.failures, found.attempts) == ("consistent-hash", 5, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1 to 1000 instances"),
        ('instances = ["http://a"]\ndiscover = "http://b"', "instances and discover"),
        ('discover = "https://b"', "asked by http"),
        ('discover = "b:80"', "not the URL"),
        ('discover = "http://b"\ncheck_s = 0', "need health checks"),
        ('instances = [{url = "http://a", priority = -1}]', "priority"),
        ('discover = "http://b"\ndiscover_s = 0', "discover_s"),
        ("instances = []", "1 to 1000 instances"),
        (f"instances = {[f'http://h:{n}' for n in range(MOST + 1)]}", "1 to 1000"),
        ('instances = ["a:8000"]', "'a:8000' is not the URL"),
        ('instances = ["http://me:secret@a"]', "not the URL of a server"),
        ('instances = ["http://a", "http://a/"]', "twice"),
        ('instances = [{url = "http://a", weight = 0}]', r"weight"),
        ('instances = ["http://a"]\npolicy = "best"', "best"),
        ('instances = ["http://a"]\npolicy = "consistent-hash"', "needs a key"),
        ('instances = ["http://a"]\nattempts = 0', "attempts"),
        ('instances = ["http://a"]\nattempt_s = 0', "attempt_s"),
        ('instances = ["http://a"]\nretry = 1', "retry"),
        ('instances = ["http://a"]\nmax_requests = -1', "max_requests"),
        (f'instances = ["http://a"]\ncheck_s = 0\n{PROBE}', "a probe needs health checks"),
        ('instances = ["http://a"]\n[probe]\nrequest = "../key"\nexpect = "b"', "is not a file beside it"),
        ('instances = ["http://a"]\n[probe]\nrequest = "a"\nexpect = "/etc/b"', "is not a file beside it"),
        ('instances = ["http://a"]\n[ejection]\nbase_s = -1', "base_s"),
        ("instances = [", "f: "),
        ("\ufeff", "f: "),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(LoadFailed, match=said):
        parse(text.encode(), "f")


def manifest(folder: Path, text: str) -> Manifest:
    (folder / "instances.toml").write_text(text)
    return Manifest(ModelId("m", "1"), folder, "instances", "instances")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('instances = ["http://127.0.0.1:9"]', r"no instance of 'm' answers: no server answers at http"),
        ('instances = ["http://127.0.0.1:9"]\ntoken = "T"', "the variable T is not set"),
        ("#" * (1 << 21), "larger than"),
        ('discover = "http://nobody.invalid:80"', "is not resolved"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, text: str, said: str) -> None:
    loader = InstancesLoader(lambda ran: None, lambda: 0.0, {}.get)
    with pytest.raises(LoadFailed, match=said) as raised:
        asyncio.run(loader.load(manifest(tmp_path, text)))
    assert loader.models == ()
    assert bool(raised.value.retries) == ("discover" in text)  # those that are discovered may come later


class Told(Client):
    """Client of a server whose readiness and metadata a test says."""

    is_ready: Any = True
    shape = 2
    answer: Any = ()
    probes = 0

    async def ready(self, model: str = "", version: str = "") -> bool:
        if isinstance(self.is_ready, Exception):
            raise self.is_ready
        return bool(self.is_ready)

    async def metadata(self, model: str = "", version: str = "") -> dict[str, Any]:
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, self.shape]}
        return {"inputs": [tensor], "outputs": [tensor]}

    async def infer_json(self, model: str, body: bytes, *, version: str = "") -> tuple[Tensor, ...]:
        self.probes += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return (tensor("y", self.answer),)


def test_checks_take_out_and_bring_back() -> None:
    client, instance = Told(), Instance("http://a")
    spec = TensorSpec("x", DataType.FP32, (-1, 2))
    checked, expected = InstanceCheck(instance, client), Expected("m", "", Signature((spec,), (spec,), True))

    def look() -> tuple[bool, bool]:
        asyncio.run(check(checked, expected, lambda: 7.0))
        return instance.is_down, instance.is_available(0.0)

    assert look() == (False, True)
    client.is_ready = Unreachable("gone")
    assert look() == (False, True)  # once is an accident
    client.is_ready = False
    assert look() == (True, False)
    client.is_ready, client.shape = True, 3
    assert look() == (False, False)
    assert instance.unfit == "its inputs are x FP32[-1,3], not x FP32[-1,2]"
    client.shape = 2
    assert look() == (False, True) and instance.joined_at == 7.0


def test_a_good_check_ends_no_ejection() -> None:
    instance = Instance("http://a")
    instance.ejections, instance.ejected_until = 1, 5.0
    asyncio.run(check(InstanceCheck(instance, Told()), Expected("m", "", Signature((), ())), lambda: 7.0))
    assert instance.is_ejected and not instance.is_available(1.0)


def test_an_instance_that_answers_wrongly_is_left_out_until_it_is_right_again() -> None:
    client, instance, now = Told(), Instance("http://a"), 0.0
    spec = TensorSpec("x", DataType.FP32, (-1, 2))
    probe = Probe(b"{}", [tensor("y", [1.0, 2.0])], tolerance=0.01, every_s=10)
    expected = Expected("m", "", Signature((spec,), (spec,), True), probe)
    checked = InstanceCheck(instance, client)

    def look(answer: Any, after: float) -> str:
        nonlocal now
        now += after
        client.answer = answer
        asyncio.run(check(checked, expected, lambda: now))
        return instance.unfit

    assert look([1.0, 2.0], after=0) == ""
    assert look([1.0, 5.0], after=9) == "" and client.probes == 1  # not due yet
    assert look([1.0, 5.0], after=1) == "it answers the probe wrongly: 'y' is off by 3"
    assert not instance.is_available(now)
    # One that is out is asked at each check; no answer is no proof.
    assert look(Overloaded("full"), after=1) and look(Unreachable("gone"), after=1)
    assert look(ModelFailed("it raised"), after=1) == "it answers the probe wrongly: 'y' is off by 3"
    assert look(InvalidInput("no 'x'"), after=1) == "it refuses the probe: no 'x'"
    assert look([1.0, 2.001], after=1) == "" and instance.is_available(now) and instance.joined_at == now
    # One that was down, for instance with other weights now, gets no request before its answer is right.
    instance.is_down = True
    assert look(Unreachable("gone"), after=1) == "" and instance.is_down
    assert look([0.0, 2.0], after=1) and not instance.is_down


@pytest.mark.parametrize(
    ("right", "found", "said"),
    [
        ([1.0], [1.0], ""),
        ([1000.0], [1000.5], ""),  # relative
        ([float("nan")], [float("nan")], ""),
        ([1.0], [float("nan")], "off by"),
        ([1.0], [[1.0]], "another datatype or shape"),
        ([1], [1.0], "another datatype or shape"),
        ([7, 2**40], [7, 2**40], ""),
        ([True, False], [True, True], "off by 1"),
        (["a"], ["a"], ""),
        (["a"], ["b"], "another text"),
    ],
)
def test_what_is_a_wrong_answer(right: list[Any], found: list[Any], said: str) -> None:
    wrong = mismatch([tensor("y", right)], [tensor("more", [1.0]), tensor("y", found)], 1e-3)
    assert said in wrong and bool(wrong) == bool(said)
    assert mismatch([tensor("y", right)], [], 1e-3) == "there is no 'y'"


def test_files_of_a_probe(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("{}")
    with pytest.raises(LoadFailed, match=r"a is not an answer"):
        read_probe(tmp_path, ProbeTable("a", "a"))
    with pytest.raises(LoadFailed, match="No such file"):
        read_probe(tmp_path, ProbeTable("a", "b"))
