"""Tenant, service class and priority of a request, from its headers and parameters.

Reads a :class:`~salver.words.messages.Standing` from HTTP headers or gRPC metadata, and from request
parameters (``priority`` is from Triton's schedule policy extension). For the tenant, a header wins over a
parameter, since a gateway can set or remove headers but not parameters in a body. For class and priority,
which the caller chooses, the parameter wins. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from salver.words.errors import InvalidInput
from salver.words.messages import ANYBODY, Parameter, Standing

CLASS_HEADER: Final = b"x-service-class"
PRIORITY_HEADER: Final = b"x-priority"
#: Parameters that :func:`from_parameters` reads.
PARAMETERS: Final = frozenset(("tenant", "service_class", "priority"))

_Service = Literal["urgent", "normal", "bulk"]
_CLASSES: Final[tuple[_Service, ...]] = get_args(_Service)
_MAX_TENANT = 128
_MAX_PRIORITY = 1 << 32


def from_headers(headers: Mapping[bytes, bytes], tenant_header: bytes) -> Standing:
    """Return the standing in the headers, with defaults for missing ones.

    Args:
        headers: Values by lower-case name.
        tenant_header: Lower-case name of the tenant's header; empty = no tenants.

    Raises:
        InvalidInput: a header is invalid; the error names it.

    >>> from_headers({b"x-tenant": b"acme", b"x-priority": b"1"}, b"x-tenant")
    Standing(tenant='acme', priority=1, service='normal')
    """
    tenant = None
    if tenant_header:
        tenant = headers.get(tenant_header)
    service = headers.get(CLASS_HEADER)
    level = headers.get(PRIORITY_HEADER)
    if tenant is service is level is None:
        return ANYBODY
    return Standing(
        "" if tenant is None else _tenant(tenant.decode("latin-1"), tenant_header.decode()),
        0 if level is None else _priority(_number(level), PRIORITY_HEADER.decode()),
        "normal" if service is None else _service(service.decode("latin-1"), CLASS_HEADER.decode()),
    )


def from_parameters(said: Standing, parameters: Mapping[str, Parameter]) -> Standing:
    """Return a standing from headers, amended by the request's parameters.

    Raises:
        InvalidInput: a parameter is invalid; the error names it.

    >>> from_parameters(Standing("acme"), {"tenant": "other", "service_class": "bulk"})
    Standing(tenant='acme', priority=0, service='bulk')
    """
    tenant, priority, service = said.tenant, said.priority, said.service
    if "tenant" in parameters:
        tenant = tenant or _tenant(parameters["tenant"], "parameters.tenant")
    if "priority" in parameters:
        priority = _priority(parameters["priority"], "parameters.priority")
    if "service_class" in parameters:
        service = _service(parameters["service_class"], "parameters.service_class")
    return Standing(tenant, priority, service)


def _tenant(value: Any, field: str) -> str:
    if isinstance(value, str) and len(value) <= _MAX_TENANT and value.isascii() and value.isprintable():
        return value
    raise InvalidInput(
        f"the tenant in {field} must be text of printable ASCII characters",
        field=field,
        fix=f"Send at most {_MAX_TENANT} characters.",
    )


def _service(value: Any, field: str) -> _Service:
    for known in _CLASSES:
        if value == known:
            return known
    raise InvalidInput(
        f"the service class in {field} is none that exists",
        field=field,
        fix=f"Send one of {', '.join(_CLASSES)}.",
    )


def _priority(value: Any, field: str) -> int:
    if type(value) is int and 0 <= value <= _MAX_PRIORITY:
        return value
    raise InvalidInput(
        f"the priority in {field} must be a whole number from 0 to {_MAX_PRIORITY}",
        field=field,
        fix="Send 1 for the highest level, 0 for the model's default.",
    )


def _number(header: bytes) -> int | None:
    text = header.strip()
    if text.isdigit() and len(text) <= 10:
        return int(text)
    return None
