"""Pipelines: graphs of models that answer as one, raw inputs answered for a task, and tables by column name.

``POST /v1/models/{model}`` takes what transformers' users send, and rows for models of tables. TensorFlow
Serving's paths begin in the same way, so that :func:`find` matches this one, and only for such models.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from salver.feature import Feature
from salver.lazy import LazySequence, lazily, lazy_imports
from salver.words.errors import SalverError, WrongVerb

with lazy_imports():
    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily

    from salver.backends.discovery import backends
    from salver.features.pipelines.loading import EnsembleLoader
    from salver.features.pipelines.operations import PipelineOperations
    from salver.features.pipelines.peers.choosing import FormModels
    from salver.features.pipelines.peers.operations import PeerOperations
    from salver.features.pipelines.pipeline_views import pipeline_operations
    from salver.features.pipelines.served import PipelineLoader, Surroundings
    from salver.kernel.serving.bus import Bus
    from salver.kernel.serving.loader import Loader
    from salver.kernel.serving.loading import Additions, CacheCover
    from salver.parts import Kernel, Parts
    from salver.transport.faults import http_fault
    from salver.transport.first_call import endpoints_later
    from salver.transport.routes import HttpTable, Operation, Route, unquoted
if TYPE_CHECKING:
    from pathlib import Path

    from salver.kernel.serving.servable import Servable
    from salver.transport.ports import ModelView
    from salver.words.artifacts import Manifest
    from salver.words.messages import ModelId, Signature

_PATH: Final = re.compile(r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?", re.ASCII)
_SUMMARY: Final = "Answer raw inputs of a Hugging Face directory or a pipeline, or rows by column name"
_BELOW: Final = re.compile(r"/v1/models/([^/:]+)(/[a-z_]+)", re.ASCII)
#: Operations at the paths of peers: Hugging Face's inference toolkit, and Text Embeddings Inference (TEI).
_PEERS: Final = (
    ("peer_root", "POST", "/", "Answer raw inputs (Hugging Face Inference Endpoints)"),
    ("peer_predict", "POST", "/predict", "Answer raw inputs (Hugging Face Inference Endpoints, TEI)"),
    ("peer_invocations", "POST", "/invocations", "Answer raw inputs (SageMaker, Vertex AI)"),
    ("tei_embed", "POST", "/embed", "Embed texts (TEI)"),
    ("tei_embed_all", "POST", "/embed_all", "Return the states of each token (TEI)"),
    ("tei_similarity", "POST", "/similarity", "Compare a text with others (TEI)"),
    ("tei_rerank", "POST", "/rerank", "Rank texts for a query (TEI)"),
    ("tei_tokenize", "POST", "/tokenize", "Return the tokens of texts (TEI)"),
    ("tei_decode", "POST", "/decode", "Return the texts of tokens (TEI)"),
    ("tei_info", "GET", "/info", "Facts of a model (TEI)"),
)
#: Without a model's name before it, this path is TorchServe's; without one after it, ``pipeline`` is meant.
_ONLY_BELOW, _ONLY_ALONE = "/invocations", "/"
_AT: Final = {(verb, path): name for name, verb, path, _ in _PEERS}
_ALONE: Final = frozenset(path for _, _, path, _ in _PEERS) - {_ONLY_ALONE, _ONLY_BELOW}


def find(models: "ModelView", verb: str, raw_path: bytes, *, has_keys: bool = False) -> "Route | None":
    """Return the route of a path for raw inputs; None if its model takes tensors.

    Args:
        has_keys: Callers need keys, without which they must not learn which models there are.
    """
    match = _PATH.fullmatch(raw_path.decode("latin-1")) if verb == "POST" else None
    if match is None:
        return None
    model, version = unquoted(match[1]), unquoted(match[2] or "")
    is_meant = has_keys or is_raw(signature_of(models, model, version))
    return Route("pipeline", model, version) if is_meant else None


def find_peer(
    models: "ModelView", verb: str, raw_path: bytes, forms: "FormModels", *, has_keys: bool = False
) -> "Route | None":
    """Return the route of a peer's path, alone or below a model; None if no model of the server is meant.

    Args:
        forms: Models of the server that have a form.
        has_keys: See :func:`find`.

    Raises:
        WrongVerb: the path is there, but not with this verb.
    """
    path, model = raw_path.decode("latin-1"), ""
    if path.startswith("/v1/"):
        match = _BELOW.fullmatch(path)
        if match is None or match[2] == _ONLY_ALONE:
            return None
        model, path = unquoted(match[1]), match[2]
    operation = _AT.get((verb, path))
    is_alone = not model and path in _ALONE
    if operation is None and not is_alone:
        return None
    if not model and not (is_alone or path == _ONLY_ALONE):
        return None
    if not (has_keys or (is_raw(signature_of(models, model, "")) if model else forms.are_there())):
        return None
    if operation is None:
        raise WrongVerb("Method Not Allowed")
    return Route(operation, model)


def _peer_rows() -> Iterator[Operation]:
    """Yield the verb and path of each peer's operation, for the only model and for one that is named."""
    for name, verb, path, summary in _PEERS:
        for prefix, other in (("", _ONLY_BELOW), ("/v1/models/{model}", _ONLY_ALONE)):
            if path != other:
                yield Operation(
                    name, verb, prefix + path, summary, is_matched=False, right="infer", takes_raw=True
                )


def signature_of(models: "ModelView", model: str, version: str) -> "Signature | None":
    """Return the signature of a model; None if it is not known."""
    try:
        _, signature = models.signature(model, version)
    except SalverError:
        return None
    return signature


def is_raw(signature: "Signature | None") -> bool:
    """Return whether a model is a pipeline, or has a task or named columns.

    Also True if that is not known, as the call itself says why.
    """
    return signature is None or signature.takes_raw


class StepCounts:
    """Counts of the steps that count something, for the metrics page.

    Attributes:
        known: Counts by outcome, by model, version and step.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, str], Mapping[str, int]] = {}

    def __repr__(self) -> str:
        return f"<StepCounts of {len(self.known)} steps>"

    def collect(self) -> "Iterator[Metric]":
        """Return the metric family; called by the Prometheus registry."""
        if not self.known:
            return
        family = CounterMetricFamily(
            "salver_pipeline_look_ups",
            "Keys and calls of look-up steps by outcome.",
            labels=("model", "version", "step", "outcome"),
        )
        for step, counts in [*self.known.items()]:
            for outcome, count in counts.items():
                family.add_metric((*step, outcome), count)
        yield family


async def build(kernel: "Kernel", config: None) -> "Parts":
    """Return the loader of ensembles, and the path for raw inputs."""
    rows = tuple(
        Operation(
            "pipeline", "POST", f"/v1/models/{{model}}{part}", _SUMMARY, is_matched=False, right="infer"
        )
        for part in ("", "/versions/{version}")
    )

    def http() -> "HttpTable":
        return PipelineOperations(kernel.door, rows).table()

    def has_keys() -> bool:
        return kernel.keys is not None and not kernel.keys.is_open

    table = HttpTable(
        rows,
        endpoints_later(http),
        http_fault,
        owns=lambda path: False,
        find=lambda verb, path: find(kernel.door, verb, path, has_keys=has_keys()),
    )
    forms = lazily(FormModels, kernel.door, kernel.control)
    peer_rows = tuple(_peer_rows())

    def peers() -> "HttpTable":
        control, models = kernel.control, kernel.models
        return PeerOperations(kernel.door, control, models, peer_rows, kernel.version).table()

    peer_table = HttpTable(
        peer_rows,
        endpoints_later(peers),
        http_fault,
        owns=lambda path: False,
        find=lambda verb, path: find_peer(kernel.door, verb, path, forms, has_keys=has_keys()),
    )
    ensembles = lazily(EnsembleLoader, kernel.inner, kernel.bus.emit, kernel.clock)

    async def load_own(manifest: "Manifest") -> "Servable":
        # Runs of a pipeline's own models are part of its runs, and nobody else hears of them.
        return await Loader(backends(), Bus(), kernel.clock, kernel.terms).load(manifest)

    def path_of(id: "ModelId") -> "Path | None":
        known = (servable.manifest for servable in kernel.models.servables())
        return next((manifest.path for manifest in known if manifest.id == id), None)

    def cover(servable: "Servable") -> bool:
        put = kernel.services.find(CacheCover)
        if put is None:
            return False
        put(servable)
        return True

    counts = StepCounts()

    def loader() -> "PipelineLoader":
        around = Surroundings(path_of, counts, cover)
        return PipelineLoader(kernel.inner, load_own, kernel.bus.emit, kernel.clock, around)

    pipelines = lazily(loader)
    additions = Additions({"ensemble": ensembles, "pipeline": pipelines})
    return Parts(
        http=[table, peer_table],
        additions=additions,
        collectors=[counts],
        operations=LazySequence(lambda: pipeline_operations(kernel.models.servables)),
    )


feature = Feature(
    "pipelines", "salver.features.pipelines:build", formats="salver.features.pipelines.backend:FORMATS"
)
