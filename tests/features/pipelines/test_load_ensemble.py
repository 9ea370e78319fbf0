"""From a manifest to an ensemble: of models that answer and fit, held until it goes."""

import time
from pathlib import Path

import pytest
from ensemble_steps import Lease, Pieces, chain, count, rows, step

from salver.features.cache.caching import Caching
from salver.features.cache.loading import CacheAttachment
from salver.features.cache.local import LocalCache
from salver.features.pipelines.loading import EnsembleLoader
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Terms
from salver.words.artifacts import Ensemble, Manifest, ModelConfig
from salver.words.errors import LoadFailed, NotFound
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor

STEPS = (step("double", "x=a", "y=b"), step("one", "x=b", "y=c"))


def manifest(*steps, **config) -> Manifest:
    whole = ModelConfig(ensemble=Ensemble(steps or STEPS), **config)
    return Manifest(ModelId("e", "3"), Path("/e"), "ensemble", "ensemble", whole, "f+1")


class Models:
    """A lessor of them; one may be missing."""

    def __init__(self, models, missing=""):
        self.models, self.missing = models, missing

    def other(self, name, version, is_wanted):
        return None

    def acquire(self, name, version=""):
        if name == self.missing:
            raise NotFound("unloaded")
        self.models[name].leases += 1
        return Lease(self.models[name], ModelId(name, "1"))


def loader(models, caching=None, missing="") -> Loader:
    bus = Bus(())
    door = DataPlane(RequestPath(Models(models, missing), bus.emit, time.monotonic, lambda: "0" * 15 + "1"))
    ensembles = EnsembleLoader(Inner(lambda: door), bus.emit, time.monotonic)
    attachments = [CacheAttachment(caching)] if caching else []
    return Loader({}, bus, time.monotonic, Terms(2), Additions({"ensemble": ensembles}, (), attachments))


@pytest.mark.clause("TR-S6")
async def test_an_ensemble_holds_its_models_until_it_is_closed() -> None:
    models = chain()
    servable = await loader(models).load(manifest())
    can = servable.capabilities
    assert (can.stream, can.asks_others, servable.signature.platform) == (None, True, "ensemble")
    assert [model.leases for model in models.values()] == [1, 1]
    await servable.warm(servable.manifest.config)
    response = await servable.infer(InferRequest("e", (tensor("a", rows(3)),)))
    assert response.outputs[0].array.tolist() == [[7.0]]
    await servable.close()
    assert [model.leases for model in models.values()] == [0, 0]


@pytest.mark.clause("TR-S6")
async def test_models_that_do_not_answer_or_do_not_fit_are_let_go() -> None:
    models = chain()
    with pytest.raises(LoadFailed, match="mapping to non-existing input z in model one"):
        await loader(models).load(manifest(STEPS[0], step("one", "z=b", "y=c")))
    assert [model.leases for model in models.values()] == [0, 0]
    with pytest.raises(LoadFailed, match="ensemble 'e' cannot ask its models: unloaded"):
        await loader(models, missing="one").load(manifest())
    assert [model.leases for model in models.values()] == [0, 0]


@pytest.mark.clause("TR-S10")
async def test_answers_of_a_decoupled_ensemble_are_not_kept() -> None:
    models = chain(source=Pieces(count))
    steps = (step("source", "x=n", "y=a"), *STEPS)
    with pytest.raises(LoadFailed, match="does not currently support model e with 'decoupled'"):
        await loader(models).load(manifest(*steps, response_cache=True))
    assert [model.leases for model in models.values()] == [0, 0, 0]
    servable = await loader(models).load(manifest(*steps))
    assert servable.capabilities.stream is not None
    await servable.close()


@pytest.mark.clause("TR-S10")
async def test_answers_of_an_ensemble_may_be_kept() -> None:
    models = chain()
    caching = Caching(LocalCache(1 << 20), time.monotonic)
    servable = await loader(models, caching).load(manifest(response_cache=True))
    for _ in range(2):
        response = await servable.infer(InferRequest("e", (tensor("a", rows(3)),)))
        assert response.outputs[0].array.tolist() == [[7.0]]
    assert len(models["double"].asked) == 1
    await servable.close()
