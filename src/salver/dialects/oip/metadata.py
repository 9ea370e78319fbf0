"""How do servers, models, versions and statistics describe themselves in the Open Inference Protocol?

Dicts in the protocol's JSON form, which gRPC messages take as they are; and the small bodies of
the repository calls. It knows no route.

Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from salver.encoding.json_text import loads
from salver.encoding.values import kind_of
from salver.words.errors import InvalidInput, Unsupported
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus

#: What this server does beyond the base protocol, in Triton's names (X-6).
EXTENSIONS: Final = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)

#: What ``--allow-client-shm`` adds.
SHARED_MEMORY: Final = ("system_shared_memory", "cuda_shared_memory")

_NO_NAMES: Final[Mapping[str, Sequence[str]]] = {}
#: Our state -> the state that the index shows (TR-R11).
INDEX_STATE: Final[dict[State, str]] = {
    State.NEW: "LOADING",
    State.LOADING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.UNLOADING: "UNLOADING",
    State.GONE: "UNAVAILABLE",
    State.FAILED: "UNAVAILABLE",
}


def server(version: str, name: str = "salver", more: Sequence[str] = ()) -> dict[str, Any]:
    """Server metadata (OIP-7); ``more`` extensions are those that were switched on, in Triton's order."""
    at = EXTENSIONS.index("binary_tensor_data")
    return {"name": name, "version": version, "extensions": [*EXTENSIONS[:at], *more, *EXTENSIONS[at:]]}


def model(id: ModelId, versions: Sequence[str], signature: Signature) -> dict[str, Any]:
    """Model metadata (OIP-8); a batched model's shapes begin with -1."""
    return {
        "name": id.name,
        "versions": list(versions),
        "platform": signature.platform,
        "inputs": [_spec(spec) for spec in signature.inputs],
        "outputs": [_spec(spec) for spec in signature.outputs],
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}


def index(statuses: Iterable[VersionStatus], only_ready: bool = False) -> list[dict[str, str]]:
    """The repository index (TR-R11)."""
    return [
        {
            "name": status.id.name,
            "version": status.id.version,
            "state": INDEX_STATE[status.state],
            "reason": status.reason,
        }
        for status in statuses
        if not only_ready or status.state is State.READY
    ]


def list_v1(
    statuses: Iterable[VersionStatus], owner: str, created: int, more: Mapping[str, Sequence[str]] = _NO_NAMES
) -> dict[str, Any]:
    """OpenAI's list of models, each with its versions as the index has them, and KServe v1's of those that
    can answer (X-4).

    Args:
        owner: What the server calls itself.
        created: Unix seconds since which it serves them.
        more: Names under which a model may be asked besides its own.
    """
    versions: dict[str, list[VersionStatus]] = {}
    for status in statuses:
        versions.setdefault(status.id.name, []).append(status)
    entries = [
        {
            **openai_model(each, owner, created),
            "ready": any(s.state is State.READY for s in mine),
            "versions": [
                {"version": s.id.version, "state": INDEX_STATE[s.state], "reason": s.reason} for s in mine
            ],
        }
        for name, mine in sorted(versions.items())
        for each in (name, *more.get(name, ()))
    ]
    return {"object": "list", "data": entries, "models": [e["id"] for e in entries if e["ready"]]}


def openai_model(name: str, owner: str, created: int) -> dict[str, Any]:
    """A model as OpenAI's routes describe it."""
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def parse_index(body: bytes) -> bool:
    """True if only ready versions are wanted; an empty body asks for all.

    Raises:
        InvalidInput: not an object, or ``ready`` is no boolean.
        Unsupported: a repository is named.
    """
    root = json_object(body)
    refuse_repository(root.get("repository_name", ""))
    ready = root.get("ready", False)
    if type(ready) is not bool:
        raise InvalidInput("Invalid value for 'ready': expected a boolean", field="ready")
    return ready


def refuse_repository(name: Any) -> None:
    """There is one repository, and it has no name.

    Raises:
        Unsupported: a name is given.
    """
    if name:
        raise no_repository()


def no_repository() -> Unsupported:
    """The error of a request that names a repository."""
    return Unsupported("'repository_name' specification is not supported")


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds; an empty body holds an empty one.

    Raises:
        InvalidInput: it is something else.
    """
    root = loads(body) if body.strip() else {}
    if type(root) is not dict:
        raise InvalidInput(f"the body must be a JSON object, not {kind_of(root)}")
    return root
