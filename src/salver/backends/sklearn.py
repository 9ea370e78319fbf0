"""Backend for scikit-learn estimators, loaded with skops or, if allowed, from a pickle.

Also for estimators with its interface (including XGBoost's and LightGBM's). A table of named columns becomes
one input per column; a pipeline that begins with a vectoriser takes texts. It knows nothing of batching.
"""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from salver.backends.content import head, uncompressed_head, zip_members
from salver.backends.loading import framework, loading, options_of, override
from salver.backends.protocol import SIGNATURE, LoadOptions, RunnableModel, Traits
from salver.backends.sharing import SHARE, shared, wants_sharing
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

with lazy_imports():
    from salver.backends.columns import Table, texts
    from salver.backends.outputs import Outputs
    from salver.backends.sklearn_columns import SklearnTable, first_step


_LOG = logging.getLogger("salver.backends.sklearn")
_FLOATS = (DataType.FP32, DataType.FP64)
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_HARMLESS = frozenset({"numpy.dtype"})  # part of every one-hot encoder, but not trusted by skops itself
#: Parts of scikit-learn that most estimators need, for :meth:`SklearnBackend.preloads`.
_PRELOADED = tuple(
    f"sklearn.{part}"
    for part in (
        *("cluster", "compose", "decomposition", "ensemble", "feature_extraction.text", "impute"),
        *("linear_model", "naive_bayes", "neighbors", "neural_network", "pipeline", "preprocessing", "svm"),
    )
)
_HOW_TO_SHARE = "Save it with joblib.dump(estimator, path), not compressed, and load it with --trust-pickle."
_DANGER = (
    "is a pickle, and loading a pickle runs whatever code its maker put into it, with all the rights of "
    "this server"
)
_WAYS_OUT = (
    "If you trust its maker, start with --trust-pickle. Better, convert it once to skops, which holds data "
    'only:  import joblib, skops.io; skops.io.dump(joblib.load("{name}"), "model.skops")'
)


class SklearnBackend:
    """Backend for skops files, and for pickle and joblib files with ``--trust-pickle``.

    Options: ``trusted``, a comma-separated list of types allowed in a skops file besides those that skops
    trusts. ``dates``, a comma-separated list of columns that are dates, sent as texts of ISO 8601.
    """

    name = "sklearn"
    extra = "sklearn"
    modules: tuple[str, ...] = ("sklearn", "skops")
    #: A pickle runs code. A skops file does not, but a vectoriser in it may treat texts as file names.
    traits = Traits(
        releases_gil=False, repeatable=True, unrepeatable=frozenset({"pickle"}), harmless_formats=frozenset()
    )

    def recognise(self, path: Path) -> str | None:
        """Return ``skops`` for an archive with a schema, ``pickle`` for an object of a class."""
        start = uncompressed_head(path, 64) or head(path, 64)
        if start[:2] == b"PK":
            if "schema.json" in zip_members(path):
                return "skops"
            return None
        if len(start) < 4 or start[0] != 0x80 or start[1] not in (2, 3, 4, 5) or _TORCH_MAGIC in start:
            return None
        # Skip the frame opcode of protocol 4; a pickled object then begins with a reference to its class.
        first = start[11:] if start[2] == 0x95 else start[2:]
        is_class = first[:1] == b"c" or (first[:1] == b"\x8c" and not first[2:].startswith(b"numpy"))
        return "pickle" if is_class else None  # dicts, lists and arrays are not models

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return ("salver.backends.sklearn:import_skops", *_PRELOADED)

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """See :class:`~salver.backends.protocol.Backend`."""
        wish = options_of(manifest, ("trusted", "dates", SHARE))
        sharing = wants_sharing(wish, manifest, options)
        if manifest.format == "pickle" and not options.trust_pickle:
            raise LoadFailed(f"{manifest.path} {_DANGER}", fix=_WAYS_OUT.format(name=manifest.path.name))
        sklearn = framework(self, "sklearn")
        with loading(manifest), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if manifest.format == "pickle":
                # Mapped as copies on write: compiled code takes no arrays that are read-only.
                mapping = "c" if sharing else None
                estimator = framework(self, "joblib").load(manifest.path, mmap_mode=mapping)
            else:
                estimator = self._skops(manifest, wish.get("trusted", ""), options)
            for version in {getattr(w.message, "original_sklearn_version", "") for w in told} - {""}:
                _LOG.warning(
                    "model %s was saved by scikit-learn %s and runs on %s: its answers may differ. "
                    "Save it again with this version, or install that one",
                    *(manifest.id, version, sklearn.__version__),
                )
            days = [name.strip() for name in wish.get("dates", "").split(",")]
            model = SklearnModel(estimator, manifest, [name for name in days if name])
            return shared(model, manifest, _HOW_TO_SHARE) if sharing else model

    def _skops(self, manifest: Manifest, trusted: str, options: LoadOptions) -> Any:
        skops = import_skops()
        # skops loads only types that it trusts; a few more have been checked to be harmless.
        allowed = {name.strip() for name in trusted.split(",")} | _HARMLESS
        if not options.trust_pickle:
            with suppress(framework(self, "skops.io.exceptions").UntrustedTypesFoundException):
                return skops.load(manifest.path, trusted=sorted(allowed))
        unknown = sorted(set(skops.get_untrusted_types(file=manifest.path)) - _HARMLESS)
        if not options.trust_pickle:
            raise LoadFailed(
                f"{manifest.path} holds types that skops does not trust: "
                f"{', '.join(sorted(set(unknown) - allowed))}",
                fix=f'If you do, write in salver.toml: [options] trusted = "{", ".join(unknown)}".',
            )
        return skops.load(manifest.path, trusted=[*unknown, *_HARMLESS])


def import_skops() -> Any:
    """Import skops without PyTorch, which it comes by as it imports each module of scikit-learn."""
    return framework(SklearnBackend(), "skops.io", without=("sklearn.externals.array_api_compat.torch",))


class SklearnModel:
    """One fitted estimator.

    Args:
        days: Names of columns of dates.
    """

    def __init__(self, estimator: Any, manifest: Manifest, days: Sequence[str] = ()) -> None:
        self._estimator: Any = estimator
        table = SklearnTable(estimator, days)
        self._table = table
        self._values: Callable[[Mapping[str, Array]], Any] = lambda inputs: inputs["input"]
        if table.columns and not table.is_matrix:
            self._values = table.frame
            inputs = table.columns
        elif _takes_texts(estimator):
            self._values = lambda inputs: texts("input", inputs["input"])
            inputs = (TensorSpec("input", DataType.BYTES, (-1,)),)
        else:
            inputs = (TensorSpec("input", DataType.FP32, (-1, _width(estimator))),)
        inputs = override(inputs, manifest.config.inputs, "inputs", (*_FLOATS, DataType.INT64))
        outputs = override(_outputs(estimator, table), manifest.config.outputs, "outputs", _FLOATS)
        is_matrix = len(inputs) == 1 and len(inputs[0].shape) == 2
        if is_matrix and inputs[0].datatype is DataType.FP32 and _needs_doubles(estimator):
            self._values = lambda inputs: inputs["input"].astype(np.float64)
        self.signature = Signature(inputs, outputs, True, "sklearn_estimator")
        self._names = {spec.name for spec in outputs}
        #: Steps before the last, which need not run for each of two outputs.
        self._before: Any = estimator[:-1] if len(getattr(estimator, "steps", ())) > 1 else None
        self._check = Outputs(self.signature, manifest.id.name).check
        if is_matrix and table.columns:
            self.signature = Table(table.columns).beside(self.signature)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        estimator = self._estimator
        values = self._table.frame(inputs) if SIGNATURE in inputs else self._values(inputs)
        answer: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            if "probabilities" in self._names:
                last = estimator
                if self._before is not None:
                    values, last = self._before.transform(values), estimator.steps[-1][1]
                answer["probabilities"] = last.predict_proba(values)
                answer["label"] = last.predict(values)  # not always the most probable class (SVC)
            elif "output" in self._names:
                answer["output"] = _dense(estimator.transform(values))
            else:
                answer[next(iter(self._names))] = estimator.predict(values)
        return self._check(answer, inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._estimator = None


def _width(estimator: Any) -> int:
    if not hasattr(estimator, "n_features_in_"):
        raise LoadFailed(
            f"the {type(estimator).__name__} does not say how many features it takes",
            fix="Fit it before saving it.",
        )
    return int(estimator.n_features_in_)


def _takes_texts(estimator: Any) -> bool:
    """Return whether the first step is a vectoriser of texts."""
    return hasattr(first_step(estimator), "build_analyzer")


def _needs_doubles(estimator: Any) -> bool:
    """Return whether compiled code, such as that of KMeans, needs the number type that it was fitted with."""
    # Nothing in an estimator says so: try it with 32-bit numbers.
    ask = estimator.predict if hasattr(estimator, "predict") else estimator.transform
    try:
        ask(np.zeros((2, _width(estimator)), np.float32))
    except ValueError:
        return True
    return False


def _outputs(estimator: Any, table: SklearnTable) -> tuple[TensorSpec, ...]:
    classes = getattr(estimator, "classes_", None)
    if hasattr(estimator, "predict") and classes is not None and not isinstance(classes, list):
        names = tuple(str(c) for c in classes)
        kind = DataType.INT64
        if np.asarray(classes).dtype.kind in "OUS":
            kind = DataType.BYTES
        label = TensorSpec("label", kind, (-1,))
        if not hasattr(estimator, "predict_proba"):
            return (label,)
        return (label, TensorSpec("probabilities", DataType.FP64, (-1, len(names)), labels=names))
    if hasattr(estimator, "predict"):
        trial = estimator.predict(_trial(estimator, table))
        name, kind = ("prediction", DataType.FP64) if trial.dtype.kind == "f" else ("label", DataType.INT64)
        return (TensorSpec(name, kind, (-1, *trial.shape[1:])),)
    if hasattr(estimator, "transform"):
        trial = _dense(estimator.transform(_trial(estimator, table)))
        return (TensorSpec("output", DataType.FP64, (-1, *trial.shape[1:])),)
    raise LoadFailed(
        f"the file holds a {type(estimator).__name__}, which has neither predict nor transform",
        fix="Save the fitted estimator itself.",
    )


def _trial(estimator: Any, table: SklearnTable) -> Any:
    if table.columns:
        return table.trial()
    if _takes_texts(estimator):
        return ["", ""]
    return np.zeros((2, _width(estimator)))


def _dense(values: Any) -> Any:
    if hasattr(values, "toarray"):
        return values.toarray()
    return values
