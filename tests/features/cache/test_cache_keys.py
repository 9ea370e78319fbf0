"""Keys: equal for equal questions, and for no others. Packed answers come back as they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.features.cache.key import KeyMaker, glimpse, key_of, owner_of
from salver.features.cache.packing import pack, unpack
from salver.words.messages import InferRequest, InferResponse, ModelId, RequestedOutput
from salver.words.tensor import Tensor, as_bytes, tensor

OWNER = owner_of(ModelId("m", "1"), "f")
A, B = tensor("a", np.arange(6, dtype=np.float32).reshape(2, 3)), tensor("b", ["x", b"y\0"])


def ask(*inputs: Tensor, outputs: tuple[str, ...] = (), **more: object) -> InferRequest:
    return InferRequest("m", inputs, outputs=tuple(map(RequestedOutput, outputs)), **more)


def digest(request: InferRequest, *, sees: bool = False, owner: bytes = OWNER) -> bytes:
    return key_of(request, owner, sees_parameters=sees)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ask(A, B), ask(B, A)),
        (ask(A, id="1", version="1"), ask(A, id="2")),
        (ask(A, outputs=("y", "z")), ask(A, outputs=("z", "y"))),
        (ask(A, parameters={"anything": 1}), ask(A)),
        (ask(A), ask(tensor("a", A.array.copy()))),
    ],
)
def test_questions_with_one_answer_share_a_key(one: InferRequest, other: InferRequest):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    "other",
    [
        ask(A),
        ask(A, tensor("b", ["xy", b"\0"])),
        ask(A, tensor("b", [["x", b"y\0"]])),
        ask(tensor("a", A.array.reshape(3, 2)), B),
        ask(tensor("c", A.array), B),
        ask(tensor("a", A.array.view(np.int32)), B),
        ask(tensor("a", np.where(A.array == 0, np.float32(-0.0), A.array)), B),
        ask(A, B, outputs=("y",)),
        ask(A, B, signature="classify"),
    ],
)
def test_others_do_not(other: InferRequest):
    assert digest(other) != digest(ask(A, B))


def test_a_model_that_sees_parameters_answers_by_them_but_not_by_when_and_for_whom():
    plain = digest(ask(A), sees=True)
    assert digest(ask(A, parameters={"colour": "red"}), sees=True) != plain
    form = {"timeout": 5, "priority": 1, "tenant": "x", "service_class": "bulk", "binary_data_output": True}
    assert digest(ask(A, parameters=form), sees=True) == plain


def test_copies_of_a_model_have_keys_of_their_own():
    owners = {owner_of(ModelId(*id), mark) for id in (("m", "1"), ("m", "2"), ("m1", "")) for mark in "ab"}
    assert len(owners) == 6
    assert digest(ask(A)).startswith(OWNER)


ARRAYS = st.one_of(
    hnp.arrays(
        st.sampled_from(["?", "u1", "i8", "f2", "f4", "f8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    st.lists(st.binary(max_size=9), max_size=5).map(as_bytes),
)


@given(st.lists(ARRAYS, min_size=1, max_size=2), st.booleans(), st.sampled_from(["x", "y" * 200]))
def test_the_quick_way_gives_the_same_key(arrays: list[np.ndarray], sees: bool, name: str):
    inputs = tuple(tensor(f"{name}{i}", array) for i, array in enumerate(arrays))
    for request in (InferRequest("m", inputs), InferRequest("m", inputs, parameters={"colour": "red"})):
        maker = KeyMaker(OWNER, sees_parameters=sees)
        for _ in range(2):  # the second time from what the first one kept
            assert maker.key(request) == key_of(request, OWNER, sees_parameters=sees)
        assert 0 <= glimpse(request) == glimpse(request) < 1 << 32


def test_keys_of_more_forms_than_are_kept_stay_right():
    maker = KeyMaker(OWNER, sees_parameters=False)
    requests = [InferRequest("m", (tensor("x", np.zeros(n, "u1")),)) for n in range(300)]
    assert [maker.key(each) for each in requests] == [digest(each) for each in requests]


PARAMETERS = st.dictionaries(st.text(), st.one_of(st.booleans(), st.text()), max_size=2)


@given(st.lists(ARRAYS, max_size=3), PARAMETERS)
def test_a_packed_answer_comes_back_as_it_was(arrays: list[np.ndarray], parameters: dict[str, bool | str]):
    outputs = tuple(tensor(f"o{i}", array) for i, array in enumerate(arrays))
    found = unpack(pack(InferResponse("m", "1", outputs, "id", parameters)))
    assert found is not None
    assert found[1] == parameters
    for given_, got in zip(outputs, found[0], strict=True):
        assert (got.name, got.datatype, got.shape) == (given_.name, given_.datatype, given_.shape)
        assert got.array.tobytes() == given_.array.tobytes() or got.array.tolist() == given_.array.tolist()


def test_numbers_come_back_as_views_that_nobody_can_write_to():
    packed = pack(InferResponse("m", "1", (A, tensor("d", np.ones(3)))))
    found = unpack(packed)
    assert found is not None
    for got in found[0]:
        assert np.shares_memory(got.array, np.frombuffer(packed, np.uint8))
        assert got.array.flags.aligned
        assert not got.array.flags.writeable


@given(st.binary(max_size=80))
def test_bytes_that_nobody_packed_are_no_answer(noise: bytes):
    assert unpack(noise) is None or unpack(noise) == ((), {})
    packed = pack(InferResponse("m", "1", (A,)))
    assert unpack(packed[: len(packed) - 1]) is None
