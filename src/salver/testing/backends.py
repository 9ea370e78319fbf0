"""Conformance suite of :class:`salver.backends.protocol.Backend`.

Subclass :class:`BackendConformance`, define the backend and an artefact with known answers, and let pytest
collect it. It knows no framework.
"""

import asyncio
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np
import pytest

from salver.backends.protocol import Backend, LoadOptions, RunnableModel
from salver.kernel.engine.process import ProcessRunner
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId
from salver.words.tensor import Array

Arrays = Mapping[str, Array]
_PLAIN = ModelConfig()


class Case(msgspec.Struct, frozen=True):
    """An artefact and its answers.

    Attributes:
        path: The file or folder; it may be copied, so its name must not matter.
        inputs: Inputs of one request; several rows if the model is batched.
        outputs: The expected outputs.
        config: Configuration of the model.
        cut: A truncated copy of the file must be rejected (folders: their largest file). False for formats
            that may be valid at any length: it may then load.
    """

    path: Path
    inputs: Arrays
    outputs: Arrays
    config: ModelConfig = ModelConfig()
    cut: bool = True


def manifest_of(backend: Backend, path: Path, config: ModelConfig = _PLAIN) -> Manifest:
    """Return the manifest that a repository would create."""
    form = backend.recognise(path) or "unrecognised"
    return Manifest(ModelId("model", "1"), path, form, backend.name, config)


class BackendConformance:
    """Suite with ``backend`` and ``make_case`` to define.

    Attributes:
        rtol, atol: Tolerances of the answers.
        keeps_suffix: The format also depends on the file's suffix (as for source code).
    """

    backend: Backend
    rtol = 1e-4
    atol = 1e-5
    keeps_suffix = False

    @staticmethod
    def make_case(folder: Path) -> Case:
        """Write an artefact below ``folder``, once for the whole class."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory: pytest.TempPathFactory) -> Case:
        """Return the case, created once."""
        return cls.make_case(tmp_path_factory.mktemp("artefact"))

    @pytest.fixture
    def model(self, case: Case) -> RunnableModel:
        """Return the model, loaded for each test."""
        return self.load(case.path, case.config)

    def load(self, path: Path, config: ModelConfig = _PLAIN) -> RunnableModel:
        """Load with one thread."""
        return self.backend.load(manifest_of(self.backend, path, config), LoadOptions())

    def close_to(self, got: Arrays, expected: Arrays) -> None:
        """Assert equality, within the tolerances for numbers."""
        assert set(got) == set(expected)
        for name, value in expected.items():
            if value.dtype == object:
                assert got[name].tolist() == value.tolist(), name
            else:
                np.testing.assert_allclose(got[name], value, self.rtol, self.atol, err_msg=name)

    def test_content_is_recognised_under_any_name(self, case: Case, tmp_path: Path) -> None:
        """Content is recognised regardless of the file name."""
        form = self.backend.recognise(case.path)
        assert form
        other = tmp_path / ("odd" + case.path.suffix if self.keeps_suffix else "odd.name")
        copy = shutil.copytree if case.path.is_dir() else shutil.copy
        copy(case.path, other)
        assert self.backend.recognise(other) == form

    @pytest.mark.parametrize(
        "content", [b"", b"\n", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"{}", b"\x80\x04."]
    )
    def test_nothing_is_seen_in_scraps(self, content: bytes, tmp_path: Path) -> None:
        """Fragments are not recognised and do not raise."""
        path = tmp_path / "model"
        path.write_bytes(content)
        assert self.backend.recognise(path) is None
        assert self.backend.recognise(tmp_path / "absent") is None
        assert self.backend.recognise(tmp_path) is None

    def test_random_bytes_are_nothing(self, tmp_path: Path) -> None:
        """Random bytes are not recognised."""
        path = tmp_path / "model"
        random = np.random.default_rng(0)
        for first in range(256):
            path.write_bytes(bytes([first]) + random.bytes(400))
            assert self.backend.recognise(path) is None

    def test_the_signature_is_sane(self, model: RunnableModel, case: Case) -> None:
        """Names are unique, shapes are extents or -1, a batch dimension is free everywhere."""
        signature = model.signature
        for specs in (signature.inputs, signature.outputs):
            assert specs and len({s.name for s in specs}) == len(specs)
            assert all(extent >= -1 for s in specs for extent in s.shape)
            assert not signature.batched or all(s.shape[0] == -1 for s in specs)
        assert set(case.inputs) <= {s.name for s in signature.inputs}
        model.close()

    def test_the_answer_is_right_and_well_formed(self, model: RunnableModel, case: Case) -> None:
        """Outputs have the signature's datatypes and ranks and are C-contiguous; inputs are unchanged."""
        inputs = {name: array.copy() for name, array in case.inputs.items()}
        for array in inputs.values():
            array.setflags(write=False)
        outputs = model.run(inputs)
        self.close_to(outputs, case.outputs)
        for spec in model.signature.outputs:
            got = outputs[spec.name]
            assert got.dtype == spec.datatype.dtype and got.ndim == len(spec.shape)
            assert got.flags.c_contiguous
        for name, array in inputs.items():
            assert np.array_equal(array, case.inputs[name])
        model.close()

    def test_a_batch_equals_its_rows(self, model: RunnableModel, case: Case) -> None:
        """A batch gives the same as its rows; without a batch dimension the request is one row."""
        rows = 1
        if model.signature.batched:
            rows = len(next(iter(case.inputs.values())))
        questions = [case.inputs]
        if model.signature.batched:
            assert rows > 1, "give the case several rows"
            questions = [{n: a[i : i + 1] for n, a in case.inputs.items()} for i in range(rows)]
        parts = [model.run(question) for question in questions]
        self.close_to({n: np.concatenate([p[n] for p in parts]) for n in case.outputs}, case.outputs)
        model.close()

    def test_threads_share_a_model(self, model: RunnableModel, case: Case) -> None:
        """Each thread gets its own answer: concurrently if the model allows it, else one by one."""
        turn = nullcontext() if self.backend.traits.concurrent else Lock()

        def ask(inputs: Arrays) -> Arrays:
            with turn:
                return dict(model.run(inputs))

        with ThreadPoolExecutor(4) as pool:
            for outputs in pool.map(ask, [case.inputs] * 40):
                self.close_to(outputs, case.outputs)
        model.close()

    def test_two_copies_do_not_know_each_other(self, case: Case) -> None:
        """Closing one copy leaves the other running."""
        one, other = self.load(case.path, case.config), self.load(case.path, case.config)
        one.close()
        self.close_to(other.run(case.inputs), case.outputs)
        other.close()

    def test_it_says_which_formats_are_harmless(self) -> None:
        """Harmless formats may be uploaded with requests; all others need the operator's permission."""
        harmless = self.backend.traits.harmless_formats
        assert harmless is not None, "declare Traits(harmless_formats=...), frozenset() if there are none"

    def test_an_unknown_option_is_refused_by_name(self, case: Case) -> None:
        """An unknown option is rejected by name."""
        config = msgspec.structs.replace(case.config, options={"no_such_option": "1"})
        with pytest.raises(LoadFailed, match="no_such_option"):
            self.load(case.path, config)

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
    def test_a_cut_artefact_is_refused(self, case: Case, tmp_path: Path, share: float) -> None:
        """A truncated artefact is rejected with a SalverError, whether recognised or not."""
        copy = tmp_path / case.path.name
        if case.path.is_dir():
            shutil.copytree(case.path, copy)
            file = max((f for f in copy.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        else:
            shutil.copy(case.path, copy)
            file = copy
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * share)])
        form = self.backend.recognise(case.path) or ""
        manifest = Manifest(ModelId("m", "1"), copy, form, self.backend.name, case.config)
        try:
            self.backend.load(manifest, LoadOptions()).close()
        except LoadFailed as error:
            assert str(error)
        else:
            assert not case.cut, f"{share:.0%} of the artefact was loaded"

    def test_it_runs_in_a_host_process(self, case: Case) -> None:
        """The model is loaded, run and closed in a host process, found by the class's import path."""
        kind = type(self.backend)
        manifest = manifest_of(self.backend, case.path, case.config)

        async def ask() -> Arrays:
            runner = await ProcessRunner.start(
                f"{kind.__module__}:{kind.__qualname__}", manifest, LoadOptions()
            )
            try:
                assert runner.signature.outputs
                outputs, seconds = await runner.run(case.inputs)
                assert seconds > 0
                return {name: array.copy() for name, array in outputs.items()}
            finally:
                await runner.close()

        self.close_to(asyncio.run(ask()), case.outputs)
