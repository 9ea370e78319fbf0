"""Whatever a version answers, it is looked at and compared without a crash."""

import math
import typing

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from outcomes import served

from salver.features.releases.experiments.answers import read, strung
from salver.features.releases.experiments.compare import Distributions, How, compare
from salver.features.releases.experiments.outputs import OutputCheck, Watch
from salver.words.events import Responded
from salver.words.tensor import DataType, Tensor, tensor

NUMERIC = [datatype for datatype in DataType if datatype is not DataType.BYTES]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw):
    name, shape = draw(st.sampled_from(["y", "z", "body"])), draw(SHAPES)
    datatype = draw(st.sampled_from(list(DataType)))
    if datatype is DataType.BYTES:
        size = math.prod(shape)
        texts = draw(st.lists(st.binary(max_size=5), min_size=size, max_size=size))
        array = np.empty(size, object)
        array[:] = texts
        return Tensor(name, datatype, array.reshape(shape))
    return Tensor(name, datatype, draw(hnp.arrays(datatype.dtype, shape)))


OUTPUTS = st.lists(tensors(), max_size=3)
CHECKS = st.builds(
    OutputCheck,
    metric=st.just("m"),
    kind=st.sampled_from(["bounds", "bins"]),
    output=st.sampled_from(["", "y", "body", "body.numbers"]),
    take=st.sampled_from(typing.get_args(typing.get_type_hints(OutputCheck)["take"])),
    least=st.none() | st.just(-1.0),
    most=st.none() | st.just(1.0),
    bins=st.just(3),
    bounds=st.sampled_from([(), (0.0, 1.0)]),
)


@given(OUTPUTS, OUTPUTS, st.sampled_from(typing.get_args(How)), st.sampled_from([0.0, 0.5]))
def test_any_two_answers_are_compared(one, other, how, tolerance):
    stable, canary = read(strung(one)), read(strung(other))
    found = compare(how, tolerance, stable, canary)
    assert found.distance >= 0 and (found.agrees or found.what)
    assert compare(how, tolerance, stable, stable).agrees
    distributions = Distributions()
    for _ in range(3):
        distributions.add(stable, canary)
    assert 0 <= distributions.shift <= 1


#: Pieces of one output that are of two types.
TWO_TYPES = [tensor("y", np.array(True)), tensor("y", np.empty(0, np.uint8))]


@given(OUTPUTS, st.lists(CHECKS, min_size=1, max_size=3), st.booleans(), st.booleans())
@example(TWO_TYPES, [OutputCheck("m", "bounds", "y")], False, False)
def test_any_answer_is_looked_at(outputs, checks, are_chosen, is_control):
    watch = Watch()
    watch.checks = tuple(checks)
    answer = Responded(served().assignment, "ada", tuple(outputs), are_chosen)
    found = watch.happened(answer, is_control=is_control)
    assert {name.partition(".")[0] for name in found} <= {"m"}
    if watch.are_fine([answer, answer]):
        assert "m" not in found
    for _ in range(60):
        watch.happened(answer, is_control=True)
    assert all(math.isfinite(bound) for bounds in watch.bounds().values() for bound in bounds)
