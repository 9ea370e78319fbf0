"""Warm-up of a loaded version."""

import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from salver.kernel.engine.admission import Admission
from salver.kernel.engine.engine import Engine
from salver.kernel.serving.capabilities import Infer
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest, ModelConfig, Warmup, WarmupSample
from salver.words.errors import LoadFailed, SalverError
from salver.words.messages import Signature

with lazy_imports():
    from salver.kernel.engine.decoupled import DecoupledEngine
    from salver.kernel.engine.sequence_engine import SequenceEngine
    from salver.kernel.engine.sequence_streams import SequenceStreamEngine
    from salver.kernel.engine.signatures import Signatures
    from salver.kernel.engine.warmup import samples
    from salver.kernel.serving.warmup_requests import Decode, sample_request, warm_request


_LOG = logging.getLogger("salver.loader")
_NO_WARMUP = Warmup()
_Warmed = Engine | DecoupledEngine | SequenceEngine


class Replay(Protocol):
    """Warm-up requests that a model's artefact brings."""

    async def run(self, signature: Signature, ask: Infer, times: int) -> bool:
        """Run all requests a number of times; return whether there are any. Raises LoadFailed."""
        ...


class Warmer:
    """Warm-up of one version.

    Args:
        engine: Engine; those from outside the kernel are skipped, since loading warmed them or their models
            up.
        signatures: Engines of all signatures, for a model that has several.

    Attributes:
        decode: Reads the file of a warm-up request; None = such files are not supported.
        replay: Requests in the artefact; None = there are none.
        moved: Warm-up with local paths, in place of the configuration's; None = use the configuration's.
    """

    def __init__(self, manifest: Manifest, engine: object, signatures: Signatures | None) -> None:
        self._manifest = manifest
        self._engine = engine
        self._signatures = signatures
        self.decode: Decode | None = None
        self.replay: Replay | None = None
        self.moved: Warmup | None = None

    def __repr__(self) -> str:
        return f"<Warmer of {self._manifest.id}>"

    async def run(self, config: ModelConfig) -> None:
        """See :meth:`salver.kernel.serving.servable.Servable.warm`."""
        engine = self._engine
        if not isinstance(engine, _Warmed):
            return  # other engines were run during loading
        wish = self.moved or config.warmup
        if self.replay is not None:
            has_replayed = await self.replay.run(
                engine.signature, (self._signatures or engine).infer, wish.replays
            )
            if has_replayed and not (wish.file or wish.samples):
                return
        decides_itself = isinstance(engine, DecoupledEngine) or engine.answers_each
        if decides_itself and wish == _NO_WARMUP:
            return  # only the author can make a valid request
        if wish.file:
            await self._warm_from_file(engine, wish.file, wish.rounds)
            return
        if wish.samples:
            await self._warm_with_samples(engine, wish.samples)
            return
        others = self._signatures.others.values() if self._signatures else ()
        refusals = [await self._warm_with_zeros(engine, wish) for engine in (engine, *others)]
        if told := sorted({refusal for refusal in refusals if refusal}):
            _LOG.info("model %s does not take zeros as a warm-up: %s", self._manifest.id, "; ".join(told))

    async def _warm_with_zeros(self, engine: _Warmed, wish: Warmup) -> str:
        """Return why the model refuses zeros; empty = it does not."""
        if engine.signature.is_stateful and msgspec.structs.replace(wish, replays=1) == _NO_WARMUP:
            return ""  # zeros would change the model's state
        try:
            for inputs in samples(engine.signature, wish):
                await engine.run_alone(inputs)
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    async def _warm_with_samples(self, engine: _Warmed, samples: Sequence[WarmupSample]) -> None:
        id, signature = self._manifest.id, engine.signature
        admission, known = Admission(id.name, signature), {spec.name for spec in signature.inputs}
        for sample in samples:
            try:
                request = await sample_request(id, sample, signature)
                if known.issuperset(sample.inputs):  # control inputs are not in the signature
                    admission.bind(request)
                for _ in range(sample.rounds):
                    await engine.run_alone({tensor.name: tensor.array for tensor in request.inputs})
            except Exception as error:
                raise LoadFailed(f"failed to run warmup sample '{sample.name}': {error};") from error

    async def _warm_from_file(self, engine: _Warmed, name: str, rounds: int) -> None:
        request = await warm_request(self._manifest, name, engine.signature, self.decode)
        try:
            for _ in range(rounds):
                if isinstance(engine, DecoupledEngine | SequenceStreamEngine):
                    await engine.run_alone({tensor.name: tensor.array for tensor in request.inputs})
                else:
                    await engine.infer(request)
        except SalverError as error:
            path = self._manifest.path.parent / name
            raise LoadFailed(f"the warm-up request {path} failed: {error}") from error
