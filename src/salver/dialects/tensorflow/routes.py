"""HTTP operations of TensorFlow Serving and KServe's first protocol. Pure."""

from collections.abc import Mapping
from typing import Final

from salver.dialects.tensorflow import paths
from salver.dialects.tensorflow.rules import TfsRules
from salver.lazy import lazy_imports
from salver.transport.routes import Endpoint, Headers, HttpTable, Operation, Route, unquoted

with lazy_imports():
    from salver.dialects.tensorflow.faults import tfs_fault

#: Rows that describe the paths; ``paths.py`` parses them by a grammar of its own.
OPERATIONS: Final = (
    Operation(
        "tfs_metrics", "GET", "/monitoring/prometheus/metrics", "Metrics page at TensorFlow Serving's path"
    ),
    *(
        Operation(
            name,
            verb,
            f"/v1/models/{{model}}{part}{end}",
            summary + whom,
            is_matched=False,
            right="infer" if verb == "POST" else "read",
        )
        for name, verb, end, summary in (
            ("model_v1", "GET", "", "State of each version of a model"),
            ("metadata_v1", "GET", "/metadata", "Signatures of a model"),
            ("predict_v1", "POST", ":predict", "Infer with a model (TensorFlow Serving, KServe v1)"),
            ("classify_v1", "POST", ":classify", "Classes of examples"),
            ("regress_v1", "POST", ":regress", "Values of examples"),
            (
                "explain_v1",
                "POST",
                ":explain",
                "Explain a prediction (KServe v1), for models with an explainer",
            ),
        )
        for part, whom in (
            ("", ""),
            ("/versions/{version}", ", of a version"),
            ("/labels/{label}", ", of what a label means"),
        )
    ),
)


def owns_fault(raw_path: bytes) -> bool:
    """Return whether errors at a path have TensorFlow Serving's layout."""
    return paths.is_below_v1(raw_path) and not raw_path.endswith((b"/load", b"/unload"))


def find(verb: str, raw_path: bytes) -> Route | None:
    """Find the route of a path below ``/v1/``; None for other paths.

    Raises:
        InvalidInput: There is none; the text is TensorFlow Serving's (TF-R7).
    """
    if not paths.is_below_v1(raw_path):
        return None
    path = raw_path.decode("latin-1")
    found = paths.find(verb, path)
    is_short = found.model != "" and (verb == "POST" or path.count("/") == 3)
    return Route(
        found.operation,
        unquoted(found.model),
        found.version,
        label=unquoted(found.label),
        path="" if is_short and found.operation != "explain_v1" else path,
    )


#: What TensorFlow Serving sends with every answer when pages of any origin may ask (TF-R24).
_ANY_ORIGIN: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)


def table_of(endpoints: Mapping[str, Endpoint], rules: TfsRules) -> HttpTable:
    """Return the operations of one server, given what they do."""
    headers = _any_origin if rules.allows_cors else None
    return HttpTable(OPERATIONS, endpoints, tfs_fault, owns_fault, find, headers, frozenset(("options_v1",)))


def _any_origin(raw_path: bytes) -> Headers:
    return _ANY_ORIGIN if paths.is_below_v1(raw_path) else ()
