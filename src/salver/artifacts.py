"""What lies on disk, and how does its owner want it served?

:class:`Manifest` describes one version found in a repository; :class:`ModelConfig` is what
``salver.toml`` (or a translated ``config.pbtxt``) says about a model. Unknown fields are
refused by name. Nothing here reads a file.
"""

from pathlib import Path
from typing import Literal

import msgspec

from salver.messages import ModelId, TensorSpec


class Batching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests share a run of the model.

    Attributes:
        enabled: False runs every request alone.
        max_rows: Most rows in one run.
        max_delay_ms: How long an idle instance may wait for a batch to fill; 0 = take what is
            there (drain-the-queue, the default).
        preferred_rows: Sizes that close a waiting batch early, ascending.
        max_queue: Most requests waiting; one more is refused as overloaded.
    """

    enabled: bool = True
    max_rows: int = 64
    max_delay_ms: float = 0.0
    preferred_rows: tuple[int, ...] = ()
    max_queue: int = 1024


class Instances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who runs it.

    Attributes:
        count: Runs at the same time; 0 = let the backend's traits decide.
        threads: Threads inside one run; 0 = let the backend's traits decide.
        runner: ``thread``, ``process`` (own host process) or ``auto`` (by the backend's traits).
        memory_limit_mb: Address-space limit of a host process; 0 = none.
    """

    count: int = 0
    threads: int = 0
    runner: Literal["auto", "thread", "process"] = "auto"
    memory_limit_mb: int = 0


class Versions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which versions are wanted: the ``latest`` n, or ``all``, or the ``specific`` ones."""

    latest: int = 1
    all: bool = False
    specific: tuple[str, ...] = ()


class Warmup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that run before a version takes traffic.

    Attributes:
        rows: Batch sizes to try; free dimensions take ``free_dim``.
        rounds: Runs of each size.
        file: An Open Inference JSON request beside the model; replaces generated zeros.
    """

    rows: tuple[int, ...] = (1,)
    rounds: int = 3
    free_dim: int = 1
    file: str = ""


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything an owner may say about a model; the defaults are right for most.

    Attributes:
        backend: A backend's name; empty = recognised by content.
        inputs, outputs: Override what the artefact says of itself, or stand in where it is silent.
        timeout_ms: Deadline of a request that brings none; 0 = none.
        options: Handed to the backend, which refuses what it does not know.
    """

    backend: str = ""
    filename: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batching: Batching = Batching()
    instances: Instances = Instances()
    versions: Versions = Versions()
    warmup: Warmup = Warmup()
    timeout_ms: float = 0.0
    options: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True):
    """One version found in a repository, whole and recognised.

    Attributes:
        path: The artefact: a file, or a folder for formats that are folders.
        format: What it was recognised as (``onnx``, ``torchscript``, ``savedmodel``, …).
        backend: The backend that runs it.
        fingerprint: Changes when the files change; equal fingerprints need no reload.
        bytes: Size on disk.
        problem: Why it cannot be served, or empty; such a version is listed, never loaded.
        notices: What was said in its configuration and has no effect yet.
    """

    id: ModelId
    path: Path
    format: str
    backend: str
    config: ModelConfig = ModelConfig()
    fingerprint: str = ""
    bytes: int = 0
    problem: str = ""
    notices: tuple[str, ...] = ()
