"""Loading of step-wise models (``steps.vocabulary``).

The backend loads the model, a program with states gets slots for them, the vocabulary is read, and a step
engine is created.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from salver.backends.protocol import Backend, LoadOptions, StepBackend, StepModel
from salver.backends.stateful import StatefulSteps
from salver.kernel.engine.stepper import StepEngine
from salver.kernel.engine.transcript import ByteVocabulary, TextVocabulary, Vocabulary
from salver.kernel.serving.loading import StepWrapper
from salver.stores.protocol import checked
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, SalverError
from salver.words.events import StepRan

_MAX_VOCABULARY = 64 << 20
#: Steps shorter than this gain nothing from more threads, and lose if these wait for busy cores. (Measured: a
#: network with steps of 0.1 ms made 55,000 tokens/s for 16 callers on one thread, 25,000 on two.)
_QUICK_S = 0.002


async def load_steps(
    backend: Backend,
    manifest: Manifest,
    trials: Sequence[LoadOptions],
    clock: Callable[[], float],
    emit: Callable[[StepRan], None],
    wrap: StepWrapper | None = None,
) -> tuple[StepEngine, int]:
    """Load a model, time its steps and start its engine; return the engine and the number of threads.

    Args:
        wrap: Additions to the model; None = none.
        trials: Placements to try in order; the first with a short step is kept, or else the last.

    Raises:
        LoadFailed: the reason, in words for the owner.
    """
    if manifest.config.instances.gpus:
        raise LoadFailed(
            f"model '{manifest.id.name}' is step-wise, and such models run on the CPU",
            field="instances.gpus",
            fix="Leave it out.",
        )
    if manifest.config.instances.runner == "process":
        raise LoadFailed(
            f"model '{manifest.id.name}' is step-wise, and such models run on a thread",
            field="instances.runner",
            fix="Leave instances.runner out."
            if not manifest.brought
            else "Models of requests run in a process of their own: put it into the repository.",
        )
    vocabulary = await asyncio.to_thread(_read_vocabulary, manifest)
    for options in trials:
        model = await asyncio.to_thread(_load, backend, manifest, options)
        if wrap is not None:
            model = wrap(manifest, model)
        engine = StepEngine(manifest.id, model, vocabulary, manifest.config, clock, emit)
        try:
            await engine.start()
        except BaseException:
            await engine.close()
            raise
        if engine.step_seconds <= _QUICK_S or options is trials[-1]:
            break
        await engine.close()
    return engine, options.threads


def _load(backend: Backend, manifest: Manifest, options: LoadOptions) -> StepModel:
    try:
        if isinstance(backend, StepBackend):
            return backend.load_steps(manifest, options)
        model = backend.load(manifest, options)
    except SalverError:
        raise
    except Exception as error:
        raise LoadFailed(
            f"{manifest.path} could not be loaded by the {backend.name} backend: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        steps = manifest.config.steps
        return StatefulSteps(model, manifest.id.name, steps.max_sequences, steps.max_context)
    except BaseException:
        model.close()
        raise


def _read_vocabulary(manifest: Manifest) -> Vocabulary:
    name = manifest.config.steps.vocabulary
    if name == "bytes":
        return ByteVocabulary()
    path = manifest.path.parent / checked(name)
    try:
        if path.stat().st_size > _MAX_VOCABULARY:
            raise LoadFailed(f"vocabulary {path} is larger than {_MAX_VOCABULARY} bytes")
        return TextVocabulary(msgspec.json.decode(path.read_bytes(), type=list[str]))
    except OSError as error:
        raise LoadFailed(
            f"cannot read the vocabulary {path}: {error.strerror}",
            field="steps.vocabulary",
            fix='Put the file beside the artefact, or write vocabulary = "bytes".',
        ) from error
    except msgspec.DecodeError as error:
        raise LoadFailed(f"vocabulary {path} is not a JSON list of strings: {error}") from error
