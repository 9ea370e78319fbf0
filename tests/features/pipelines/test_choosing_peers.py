"""Which model a path without a name means."""

from collections.abc import Awaitable

import pytest

from salver.features.pipelines.peers.choosing import FormModels, choose
from salver.words.errors import InvalidInput, NoRoute, NotResident, SalverError, Unsupported
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus
from salver.words.tensor import DataType

TEXT = (TensorSpec("text", DataType.BYTES, (-1,)),)
CLASSES = Signature(TEXT, (), platform="huggingface_text-classification")
VECTORS = Signature(TEXT, (), platform="huggingface_embeddings")
TENSORS = Signature((TensorSpec("x", DataType.FP32, (-1,)),), ())


def test_the_only_model_that_suits_a_path_is_meant() -> None:
    both = {"a": CLASSES, "b": VECTORS}
    assert choose({"a": CLASSES}, "/", ()) == "a"
    assert choose(both, "/embed", ("embeddings",)) == "b"
    with pytest.raises(InvalidInput, match=r"2 models could answer /: a, b.* Name one: POST /v1/models/a\."):
        choose(both, "/", ())
    with pytest.raises(Unsupported, match=r"for text-ranking. There are: a \(text-classification\)"):
        choose({"a": CLASSES}, "/rerank", ("text-ranking",))
    with pytest.raises(NoRoute, match="Not Found"):
        choose({}, "/embed", ("embeddings",))


class Models:
    """Models of a server: a signature, or the error of asking for it."""

    def __init__(self, **models: Signature | SalverError) -> None:
        self.models = models

    def statuses(self) -> tuple[VersionStatus, ...]:
        ids = [ModelId(name, version) for name in self.models for version in "12"]
        return tuple(VersionStatus(id, State.READY) for id in ids)

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        found = self.models[model]
        if isinstance(found, SalverError):
            raise found
        return ModelId(model, "1"), found


def forms(**models: Signature | SalverError) -> FormModels:
    own = Models(**models)
    return FormModels(own, own)  # type: ignore[arg-type]


def test_only_models_with_a_form_that_can_answer_count() -> None:
    async def arrive() -> None: ...

    def arrives() -> Awaitable[None]:
        return arrive()

    absent = NotResident("model 'c' is not in memory")
    absent.arrives = arrives
    assert forms(a=CLASSES, x=TENSORS, c=absent).ready() == {"a": CLASSES}
    assert not forms(x=TENSORS).are_there()
    assert forms(x=TENSORS, c=absent).are_there()  # as far as is known
    with pytest.raises(NotResident):
        forms(x=TENSORS, c=absent).ready()
    with pytest.raises(Unsupported, match=r"takes tensors. Send them to POST /v2/models/x/infer"):
        forms(x=TENSORS).named("x")
