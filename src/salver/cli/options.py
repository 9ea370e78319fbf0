"""Which options do several commands share, and how are they explained?"""

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from salver.errors import InvalidInput

Url = Annotated[str, Parameter(help="The server's address.", env_var="SALVER_URL")]
Json = Annotated[bool, Parameter(help="Print JSON, one object a line, instead of text.")]
Version = Annotated[str, Parameter(name="--model-version", help="Its version; the server picks without one.")]
Inputs = Annotated[
    tuple[str, ...],
    Parameter(
        name=("--input", "-i"),
        help="NAME=VALUE, once for each input. VALUE is JSON ('x=[[1,2]]'), text for a BYTES tensor, "
        "or @FILE: .npy, .json, or any other file as the bytes of one element.",
    ),
]

Registry = Annotated[
    str,
    Parameter(
        name="--registry",
        env_var="SALVER_REGISTRY",
        help="Folder of a registry, or the URL of its ledger (postgresql://…).",
    ),
]
Artifacts = Annotated[
    str,
    Parameter(
        name="--artifacts",
        env_var="SALVER_ARTIFACTS",
        help="Folder of the registry's files, or s3://bucket/path, where they do not lie beside its ledger.",
    ),
]

DEFAULT_URL = "http://127.0.0.1:8000"


def resources_of(settings: Iterable[str], flag: str) -> dict[str, int]:
    """How much there is of each resource that models share, by ``NAME:COUNT`` or ``NAME:COUNT:DEVICE``.

    There is one device, the machine: of several counts of one name the largest holds.

    Raises:
        InvalidInput: one is written otherwise.

    >>> resources_of(["slots:2", "memory:8:0"], "--rate-limit-resource")
    {'slots': 2, 'memory': 8}
    """
    found: dict[str, int] = {}
    for setting in settings:
        name, *numbers = setting.split(":")
        if not name or not 1 <= len(numbers) <= 2 or not all(n.isascii() and n.isdigit() for n in numbers):
            raise InvalidInput(
                f"{flag} option format is '<resource_name>:<count>:<device>' or '<resource_name>:<count>'. "
                f"Got {setting}"
            )
        found[name] = max(found.get(name, 0), int(numbers[0][:12]))
    return found
