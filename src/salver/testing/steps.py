"""Conformance suite of :class:`salver.features.pipelines.steps.step.Step`.

Subclass :class:`StepConformance`, define the step and inputs with known outputs, and let pytest collect it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.features.pipelines.edges import EdgeType, pattern
from salver.features.pipelines.steps.step import OFFSETS, Arrays, Run, Step, StepPort, ports_of, step_class
from salver.words.errors import SalverError
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, datatype_of, tensor


class StepConformance:
    """Suite with ``name``, ``inputs`` and ``outputs`` to define.

    Attributes:
        name: What ``use`` says.
        options: Options of the step.
        inputs: Arrays of at least two rows, with ``offsets`` for a step that puts lists together.
        outputs: The expected outputs, with ``offsets`` for a step that takes lists apart.
        folder: Folder of the files that the options name.
        pads: Outputs are as long as the longest row's, and filled up with zeros.
        rtol, atol: Tolerances of the outputs.
    """

    name: str
    options: Mapping[str, Any] = {}
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    folder: Path = Path()
    pads = False
    rtol = 1e-6
    atol = 1e-6

    @pytest.fixture
    def step(self) -> Step:
        """Return the step, found as a server finds it."""
        kind = step_class(self.name)
        assert kind is not None, f"the entry-point group salver.steps has no {self.name}"
        return kind(**self.options)

    @pytest.fixture
    def run(self, step: Step) -> Run:
        """Return the function of arrays."""
        return step.open(self.folder)

    @pytest.fixture
    def given(self) -> dict[str, Array]:
        """Return the inputs, which cannot be written to."""
        arrays = {name: tensor(name, values).array for name, values in self.inputs.items()}
        for array in arrays.values():
            array.setflags(write=False)
        return arrays

    def close_to(self, found: Arrays, wanted: Mapping[str, Any]) -> None:
        """Assert equality, within the tolerances for fractions."""
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            array = tensor(name, values).array
            if array.dtype.kind in "Ob":
                assert found[name].tolist() == array.tolist(), name
            else:
                np.testing.assert_allclose(found[name], array, self.rtol, self.atol, err_msg=name)

    def test_its_ports_are_described(self, step: Step, given: dict[str, Array]) -> None:
        """Inputs and outputs have names and types, and the inputs of the suite fit."""
        inputs, outputs = ports_of(step, self.folder)
        names = [port.name for port in (*inputs, *outputs)]
        assert outputs and OFFSETS not in names
        needed = {port.name for port in inputs if not port.is_optional}
        assert needed <= given.keys()
        assert step.others or given.keys() <= {OFFSETS, f"first.{OFFSETS}", *(port.name for port in inputs)}

    def test_its_outputs_are_right_and_well_formed(
        self, step: Step, run: Run, given: dict[str, Array]
    ) -> None:
        """Outputs have the declared types and the rows of the inputs."""
        found = run(given)
        self.close_to(found, self.outputs)
        inputs, outputs = ports_of(step, self.folder)
        bound: dict[str, Any] = {}
        if step.others:
            own = given.keys() - {port.name for port in inputs}
            inputs += tuple(StepPort(name, pattern(step.others)) for name in own)
        for port in inputs:
            if port.name in given:
                is_apart = step.by_name or (step.others and not step.others_agree)
                names = {} if is_apart else bound
                assert port.pattern.matches(_type_of(port.name, given[port.name]), names), port.name
        for port in outputs:
            type, array = port.pattern.filled(bound, ()), found[port.name]
            assert type is not None and array.dtype == type.datatype.dtype, port.name
            assert array.ndim == len(type.shape), port.name
            extents = zip(array.shape, type.shape, strict=True)
            assert all(a == b or b < 0 for a, b in extents), port.name

    def test_rows_do_not_depend_on_one_another(self, run: Run, given: dict[str, Array]) -> None:
        """Each row gives alone what it gives beside others."""
        whole = run(given)
        for row in range(self._rows(given)):
            own = self._row(given, row)
            wanted = self._row(whole, row)
            for name, array in run(own).items():
                expected = wanted[name]
                if self.pads and array.ndim > 1:
                    expected = expected[:, : array.shape[1]]
                self.close_to({name: array}, {name: expected})

    def test_no_rows_give_no_rows(self, run: Run, given: dict[str, Array]) -> None:
        """Lists of which none has an item are usual; an input without rows is, too."""
        empty = {name: array[:0] for name, array in given.items()}
        for name in empty:
            if name.endswith(OFFSETS):
                empty[name] = np.zeros(1, np.int64)
        try:
            found = run(empty)
        except SalverError:
            return
        for name, array in found.items():
            assert len(array) == (name == OFFSETS), name

    def test_requests_run_together_as_they_do_alone(
        self, step: Step, run: Run, given: dict[str, Array]
    ) -> None:
        """Several requests at once give what each gives by itself."""
        requests = [given, *(self._row(given, row) for row in range(self._rows(given)))]
        for own, found in zip(requests, step.open_many(self.folder)(requests), strict=True):
            assert not isinstance(found, SalverError)
            self.close_to(found, run(own))

    def test_options_are_frozen_and_strict(self, step: Step) -> None:
        """A step is a record without unknown options."""
        with pytest.raises((AttributeError, TypeError)):
            step.no_such_option = 1  # type: ignore[attr-defined]
        with pytest.raises(TypeError):
            type(step)(**self.options, no_such_option=1)

    def _rows(self, arrays: Arrays) -> int:
        offsets = next((array for name, array in arrays.items() if name.endswith(OFFSETS)), None)
        if offsets is not None:
            return len(offsets) - 1
        return len(next(iter(arrays.values())))

    def _row(self, arrays: Arrays, row: int) -> dict[str, Array]:
        """Return one row of inputs or outputs; of lists, its items."""
        offsets = arrays.get(OFFSETS)
        if offsets is None:
            return {name: array[row : row + 1] for name, array in arrays.items()}
        begin, end = offsets[row], offsets[row + 1]
        own = {name: array[begin:end] for name, array in arrays.items()}
        return {**own, OFFSETS: offsets[row : row + 2] - begin}


def _type_of(name: str, array: Array) -> EdgeType:
    spec = TensorSpec(
        name, datatype_of(array.dtype) if array.dtype != object else tensor(name, array).datatype, ()
    )
    return EdgeType(spec.datatype, array.shape)
