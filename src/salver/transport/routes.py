"""Which operation is meant by this verb and path?

A table and a pure matcher. Paths are matched raw and names decoded afterwards, so that a name may
hold ``%2F`` (X-26). The same table feeds the OpenAPI description.

Pure.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from salver.dialects.tensorflow import paths as tfs_paths
from salver.words.errors import InvalidInput, NoRoute, WrongVerb


class Operation(msgspec.Struct, frozen=True):
    """One row of the table: ``{model}`` and ``{version}`` match one segment each.

    Attributes:
        changes: It changes what is served, logged or shared; callers need a permission (``access_check.py``).
    """

    name: str
    verb: str
    path: str
    summary: str
    changes: bool


_READS, _CHANGES = False, True


OPERATIONS: Final = (
    Operation("welcome", "GET", "/", "Name, version and where to look next", _READS),
    Operation("live", "GET", "/v2/health/live", "Is the process alive?", _READS),
    Operation("ready", "GET", "/v2/health/ready", "Can every model that should serve answer?", _READS),
    Operation("server_metadata", "GET", "/v2", "Server name, version and extensions", _READS),
    Operation("model_metadata", "GET", "/v2/models/{model}", "Inputs and outputs of a model", _READS),
    Operation(
        "model_metadata",
        "GET",
        "/v2/models/{model}/versions/{version}",
        "Inputs and outputs of a version",
        _READS,
    ),
    Operation("model_ready", "GET", "/v2/models/{model}/ready", "Can the model answer?", _READS),
    Operation(
        "model_ready", "GET", "/v2/models/{model}/versions/{version}/ready", "Can the version answer?", _READS
    ),
    Operation(
        "config", "GET", "/v2/models/{model}/config", "Configuration of a model, as Triton tells it", _READS
    ),
    Operation(
        "config", "GET", "/v2/models/{model}/versions/{version}/config", "Configuration of a version", _READS
    ),
    Operation("infer", "POST", "/v2/models/{model}/infer", "Ask a model (JSON or binary tensors)", _READS),
    Operation(
        "infer", "POST", "/v2/models/{model}/versions/{version}/infer", "Ask one version of a model", _READS
    ),
    Operation(
        "explain_v2",
        "POST",
        "/v2/models/{model}/explain",
        "Explanations, of a handler that gives them",
        _READS,
    ),
    Operation(
        "explain_v2", "POST", "/v2/models/{model}/versions/{version}/explain", "The same of a version", _READS
    ),
    Operation("generate", "POST", "/v2/models/{model}/generate", "Ask a model by plain JSON keys", _READS),
    Operation(
        "generate", "POST", "/v2/models/{model}/versions/{version}/generate", "Ask a version likewise", _READS
    ),
    Operation(
        "generate_stream",
        "POST",
        "/v2/models/{model}/generate_stream",
        "The same, as Server-Sent Events",
        _READS,
    ),
    Operation(
        "generate_stream",
        "POST",
        "/v2/models/{model}/versions/{version}/generate_stream",
        "The same of one version, as Server-Sent Events",
        _READS,
    ),
    Operation("statistics", "GET", "/v2/models/stats", "Statistics of every model", _READS),
    Operation("statistics", "GET", "/v2/models/{model}/stats", "Statistics of a model", _READS),
    Operation(
        "statistics", "GET", "/v2/models/{model}/versions/{version}/stats", "Statistics of a version", _READS
    ),
    Operation(
        "explain", "GET", "/v2/models/{model}/explain", "Where the time of a model's requests goes", _READS
    ),
    Operation(
        "explain", "GET", "/v2/models/{model}/versions/{version}/explain", "The same for one version", _READS
    ),
    Operation(
        "explain_request",
        "GET",
        "/v2/models/{model}/explain/{request}",
        "Where the time of one request went",
        _READS,
    ),
    Operation("log_settings", "GET", "/v2/logging", "What is logged", _READS),
    Operation("update_log_settings", "POST", "/v2/logging", "Change what is logged", _CHANGES),
    Operation("trace_setting", "GET", "/v2/trace/setting", "What is traced", _READS),
    Operation("update_trace_setting", "POST", "/v2/trace/setting", "Change what is traced", _CHANGES),
    Operation(
        "trace_setting", "GET", "/v2/models/{model}/trace/setting", "What is traced of a model", _READS
    ),
    Operation(
        "update_trace_setting",
        "POST",
        "/v2/models/{model}/trace/setting",
        "Change what is traced of a model",
        _CHANGES,
    ),
    Operation("index", "POST", "/v2/repository/index", "Every version with its state and reason", _READS),
    Operation("load", "POST", "/v2/repository/models/{model}/load", "Load or reload a model", _CHANGES),
    Operation("unload", "POST", "/v2/repository/models/{model}/unload", "Unload a model", _CHANGES),
    Operation(
        "index_named", "POST", "/v2/repository/{repository}/index", "The same, whatever the name", _READS
    ),
    Operation(
        "load_named",
        "POST",
        "/v2/repository/{repository}/models/{model}/load",
        "Refused: name no repository",
        _CHANGES,
    ),
    Operation(
        "unload_named",
        "POST",
        "/v2/repository/{repository}/models/{model}/unload",
        "Refused: name no repository",
        _CHANGES,
    ),
    Operation(
        "regions", "GET", "/v2/systemsharedmemory/status", "Every registered region of shared memory", _READS
    ),
    Operation("regions", "GET", "/v2/systemsharedmemory/region/{region}/status", "One region", _READS),
    Operation(
        "region_register",
        "POST",
        "/v2/systemsharedmemory/region/{region}/register",
        "Register a region",
        _CHANGES,
    ),
    Operation(
        "region_register", "POST", "/v2/systemsharedmemory/register", "Refused: name a region", _CHANGES
    ),
    Operation(
        "region_unregister", "POST", "/v2/systemsharedmemory/unregister", "Let go of every region", _CHANGES
    ),
    Operation(
        "region_unregister",
        "POST",
        "/v2/systemsharedmemory/region/{region}/unregister",
        "Let go of a region",
        _CHANGES,
    ),
    Operation("cuda_regions", "GET", "/v2/cudasharedmemory/status", "No region of CUDA memory", _READS),
    Operation("cuda_regions", "GET", "/v2/cudasharedmemory/region/{region}/status", "Not found", _READS),
    Operation("cuda_register", "POST", "/v2/cudasharedmemory/region/{region}/register", "Refused", _CHANGES),
    Operation("cuda_register", "POST", "/v2/cudasharedmemory/register", "Refused", _CHANGES),
    Operation("cuda_unregister", "POST", "/v2/cudasharedmemory/unregister", "Nothing to let go of", _CHANGES),
    Operation(
        "cuda_unregister", "POST", "/v2/cudasharedmemory/region/{region}/unregister", "The same", _CHANGES
    ),
    Operation("list_v1", "GET", "/v1/models", "Every model with its versions and state", _READS),
    Operation("chat", "POST", "/v1/chat/completions", "Go on with a conversation (OpenAI)", _READS),
    Operation("completions", "POST", "/v1/completions", "Go on with a text (OpenAI)", _READS),
    Operation("embeddings", "POST", "/v1/embeddings", "Embed texts (OpenAI)", _READS),
    Operation("load_v1", "POST", "/v1/models/{model}/load", "Load or reload a model", _CHANGES),
    Operation("unload_v1", "POST", "/v1/models/{model}/unload", "Unload a model", _CHANGES),
    Operation("ready_plain", "GET", "/health/ready", "As /v2/health/ready", _READS),
    Operation("metrics", "GET", "/metrics", "Prometheus or OpenMetrics text", _READS),
    Operation(
        "tfs_metrics", "GET", "/monitoring/prometheus/metrics", "The same, as in TensorFlow Serving", _READS
    ),
    Operation("openapi", "GET", "/openapi.json", "This description", _READS),
    # Those of TensorFlow Serving have a grammar of their own (tfs_paths.py), and are only described here.
    *(
        Operation(name, verb, f"/v1/models/{{model}}{part}{end}", summary + whom, _READS)
        for name, verb, end, summary in (
            ("model_v1", "GET", "", "State of each version of a model"),
            ("metadata_v1", "GET", "/metadata", "Signatures of a model"),
            ("predict_v1", "POST", ":predict", "Ask a model (TensorFlow Serving, KServe v1)"),
            ("classify_v1", "POST", ":classify", "Classes of examples"),
            ("regress_v1", "POST", ":regress", "Values of examples"),
            ("explain_v1", "POST", ":explain", "Explanations (KServe v1), of a model that has an explainer"),
        )
        for part, whom in (
            ("", ""),
            ("/versions/{version}", ", of a version"),
            ("/labels/{label}", ", of what a label means"),
        )
    ),
)


#: Operations that change nothing; all others need a permission. TensorFlow Serving's OPTIONS is no row.
READING: Final = frozenset(o.name for o in OPERATIONS if not o.changes) | {"options_v1"}


class Route(msgspec.Struct, frozen=True, gc=False):
    """What a path asks for.

    Attributes:
        path: The whole of it, where a model's name may be longer than it looks (X-26), or an error names it.
    """

    operation: str
    model: str = ""
    version: str = ""
    request: str = ""
    region: str = ""
    label: str = ""
    path: str = ""


#: Parameters of paths, as :class:`Route` has them.
_NAMES: Final = ("model", "version", "request", "region")


def _pattern(path: str) -> tuple[tuple[str, str, str], ...]:
    """Segments as (text before, parameter name, text after); no parameter = literal text."""
    out = []
    for segment in path.strip("/").split("/"):
        before, brace, rest = segment.partition("{")
        parameter, _, after = rest.partition("}")
        out.append((before, parameter if brace else "", after))
    return tuple(out)


#: Number of segments -> rows, the literal ones first.
_TABLE: Final[dict[int, list[tuple[Operation, tuple[tuple[str, str, str], ...]]]]] = {}
for _operation in sorted(OPERATIONS, key=lambda o: o.path.count("{")):
    if _operation.name in tfs_paths.OPERATIONS:
        continue
    _segments = _pattern(_operation.path)
    _TABLE.setdefault(len(_segments), []).append((_operation, _segments))


def match(verb: str, raw_path: bytes) -> Route:
    """The route of a raw path.

    Raises:
        NoRoute: there is none ("Not Found").
        WrongVerb: there is one for another verb ("Method Not Allowed").
        InvalidInput: a name in it is not UTF-8; or it lies below ``/v1/`` and nothing else does (TF-R7).

    >>> match("POST", b"/v2/models/a%2Fb/infer")
    Route(operation='infer', model='a/b', version='', request='', region='', label='', path='')
    """
    parts = raw_path.decode("latin-1").split("/")
    if (parts[0] or (parts[-1] == "" and len(parts) > 2)) and not tfs_paths.is_below_v1(raw_path):
        raise NoRoute("Not Found")
    parts = parts[1:]
    has_other_verb = False
    for operation, segments in _TABLE.get(len(parts), ()):
        names: dict[str, str] = {}
        for part, (before, parameter, after) in zip(parts, segments, strict=True):
            if not parameter:
                if part != before:
                    break
            elif part.endswith(after) and len(part) > len(after):
                names[parameter] = part[: len(part) - len(after)] if after else part
            else:
                break
        else:
            if operation.verb == verb or (verb == "HEAD" and operation.verb == "GET"):
                return Route(operation.name, *(_name(names.get(name, "")) for name in _NAMES))
            # What is neither a number nor asked for as a label is no version, and no such path (TR-R18).
            has_other_verb = has_other_verb or names.get("version", "0").isdecimal()
    if (route := _slashed(verb, parts)) is not None:
        return route
    is_openais = verb != "OPTIONS" and raw_path.startswith(tfs_paths.OF_OPENAI)
    if tfs_paths.is_below_v1(raw_path) and not is_openais:
        return _tfs(verb, raw_path)
    if has_other_verb:
        raise WrongVerb("Method Not Allowed")
    raise NoRoute("Not Found")


def _slashed(verb: str, parts: list[str]) -> Route | None:
    """A model to load or unload whose name holds slashes, as OpenAI's ids do; older clients do not quote them
    (X-26).
    """
    if parts[:2] != ["v1", "models"] or len(parts) < 4 or not all(parts):
        return None
    is_one = verb == "POST" and parts[-1] in ("load", "unload")
    return Route(f"{parts[-1]}_v1", _name("/".join(parts[2:-1]))) if is_one else None


def _tfs(verb: str, raw_path: bytes) -> Route:
    path = raw_path.decode("latin-1")
    asked = tfs_paths.find(verb, path)
    is_short = asked.model != "" and (verb == "POST" or path.count("/") == 3)
    return Route(
        asked.operation,
        _name(asked.model),
        asked.version,
        label=_name(asked.label),
        path="" if is_short and asked.operation != "explain_v1" else path,
    )


def _name(quoted: str) -> str:
    if "%" not in quoted and quoted.isascii():
        return quoted
    try:
        return unquote_to_bytes(quoted.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "a name in the path is not valid UTF-8", field="path", fix="Percent-encode its UTF-8 bytes."
        ) from error
