"""Export of a split as an ``HTTPRoute`` of the Kubernetes Gateway API (gateway.networking.k8s.io/v1).

For versions that run behind Services of their own. Pure. A gateway draws a version per request and knows no
units; splits that it cannot represent are rejected.
"""

import itertools
import math
import re
from typing import Any, Final

import msgspec

from salver.words.errors import InvalidInput
from salver.words.releases import HEADER, Split

#: Total weight; a single weight is at most a million.
_PARTS: Final = 10_000
_MOST_MATCHES: Final = 64
_MOST_NAMES: Final = 16  # maximum number of hosts, and of headers
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST: Final = re.compile(rf"(\*\.)?{_LABEL.pattern}(\.{_LABEL.pattern})*")
_PATH: Final = re.compile(r"/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2}){0,1023}")
#: Not allowed in a path prefix by the Gateway API.
_NOT_IN_PATHS: Final = re.compile(r"//|/\.\.?(/|$)|%2f", re.IGNORECASE)
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}")


class RoutePlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the route and of the services.

    Attributes:
        name, namespace: Of the route; empty namespace = that in which it is applied.
        gateway, gateway_namespace: Parent gateway.
        stable, canary: Services of the two versions.
        port: Port of both services.
        hostnames: Host names of the route; none = all of the gateway's.
        path: Path prefix of the route.
    """

    name: str
    gateway: str
    stable: str
    canary: str
    port: int = 8000
    namespace: str = ""
    gateway_namespace: str = ""
    hostnames: tuple[str, ...] = ()
    path: str = "/"


def http_route(split: Split, place: RoutePlace) -> dict[str, Any]:
    """Return the manifest, to be written as JSON, which is valid YAML.

    Raises:
        InvalidInput: A gateway cannot represent the split, or a name is invalid in Kubernetes.

    >>> split = Split("r1", "m", stable="1", canary="2", weight=0.05, salt="s")
    >>> route = http_route(split, RoutePlace("m", "web", stable="m-v1", canary="m-v2"))
    >>> [(ref["name"], ref["weight"]) for ref in route["spec"]["rules"][0]["backendRefs"]]
    [('m-v1', 9500), ('m-v2', 500)]
    """
    _check(split, place)
    canary = round(split.weight * _PARTS)
    both = [_backend(place.stable, place.port, _PARTS - canary), _backend(place.canary, place.port, canary)]
    path = {"type": "PathPrefix", "value": place.path}
    rules = [{"matches": _matches(split, path), "backendRefs": both}]
    if split.only:  # others get the stable version; a gateway prefers rules that match more headers
        rules.append({"matches": [{"path": path}], "backendRefs": [_backend(place.stable, place.port, 1)]})
    parent = {"name": place.gateway}
    if place.gateway_namespace:
        parent["namespace"] = place.gateway_namespace
    metadata: dict[str, Any] = {"name": place.name}
    if place.namespace:
        metadata["namespace"] = place.namespace
    metadata["labels"] = {"app.kubernetes.io/managed-by": "salver"}
    metadata["annotations"] = {"salver/release": split.release, "salver/stage": str(split.stage)}
    spec: dict[str, Any] = {"parentRefs": [parent]}
    if place.hostnames:
        spec["hostnames"] = list(place.hostnames)
    spec["rules"] = rules
    kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    return {**kind, "metadata": metadata, "spec": spec}


def _matches(split: Split, path: dict[str, str]) -> list[dict[str, Any]]:
    """Return one match for each combination of values."""
    found = []
    for values in itertools.product(*(dict.fromkeys(condition.values) for condition in split.only)):
        names = [condition.source.removeprefix(HEADER) for condition in split.only]
        headers = [
            {"type": "Exact", "name": name, "value": value} for name, value in zip(names, values, strict=True)
        ]
        found.append({"path": path, "headers": headers} if headers else {"path": path})
    return found


def _backend(service: str, port: int, weight: int) -> dict[str, Any]:
    return {"name": service, "port": port, "weight": weight}


def _check(split: Split, place: RoutePlace) -> None:
    for field, is_asked in (
        ("always", bool(split.always)),
        ("never", bool(split.never)),
        ("layer", bool(split.layer)),
        ("holdback", split.holdback > 0),
        ("shadow", split.shadow is not None),
        ("only", any(not condition.source.startswith(HEADER) for condition in split.only)),
    ):
        if is_asked:
            raise InvalidInput(
                f"a gateway cannot do what '{field}' of release '{split.release}' asks for",
                field=field,
                fix="It splits requests by weight, and by headers: let Salver split them, or leave it out.",
            )
    if not 0 <= split.weight <= 1:
        raise InvalidInput(f"weight of release '{split.release}' is {split.weight}, no share", field="weight")
    if round(split.weight * _PARTS) in (0, _PARTS) and split.weight not in (0, 1):
        raise InvalidInput(
            f"a gateway shares out {_PARTS} parts, and a weight of {split.weight} is none of them",
            field="weight",
            fix="Let Salver split requests, or give a weight of a part at least.",
        )
    names = {"name": place.name, "gateway": place.gateway, "stable": place.stable, "canary": place.canary}
    names |= {"namespace": place.namespace or "x", "gateway_namespace": place.gateway_namespace or "x"}
    for field, name in names.items():
        if not _LABEL.fullmatch(name):
            raise InvalidInput(
                f"'{name}' is not a Kubernetes name",
                field=field,
                fix="Use small letters, digits and hyphens.",
            )
    if len(place.hostnames) > _MOST_NAMES:
        raise InvalidInput(
            f"a route takes {_MOST_NAMES} hostnames, not {len(place.hostnames)}", field="hostnames"
        )
    for host in place.hostnames:
        if not _HOST.fullmatch(host) or len(host) > 253:
            raise InvalidInput(
                f"'{host}' is not a hostname",
                field="hostnames",
                fix="Use small letters, digits, hyphens and dots.",
            )
    if not 1 <= place.port <= 65535:
        raise InvalidInput(f"{place.port} is not a port", field="port")
    if not _PATH.fullmatch(place.path) or _NOT_IN_PATHS.search(place.path):
        raise InvalidInput(f"'{place.path}' is not a path prefix", field="path")
    sizes = [len(set(condition.values)) for condition in split.only]
    values = [value for condition in split.only for value in condition.values]
    if bad := [value for value in values if not 1 <= len(value) <= 4096 or not value.isprintable()]:
        raise InvalidInput(f"'{bad[0][:64]}' is not a header value", field="only")
    headers = [condition.source.removeprefix(HEADER) for condition in split.only]
    wrong = [name for name in headers if not _HEADER.fullmatch(name)]
    if wrong or len(set(headers)) < len(headers) or len(headers) > _MOST_NAMES:
        raise InvalidInput(f"a route takes {_MOST_NAMES} different headers, not {headers}", field="only")
    matches = math.prod(sizes)
    if not 1 <= matches <= _MOST_MATCHES:
        raise InvalidInput(
            f"the conditions of release '{split.release}' have {matches} combinations of values, and a rule "
            f"takes 1 to {_MOST_MATCHES}",
            field="only",
        )
