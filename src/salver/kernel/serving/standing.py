"""Tenant, service class and priority of a request, from its headers and parameters.

Reads a :class:`~salver.words.messages.Standing` from HTTP headers or gRPC metadata, and from request
parameters (``priority`` is from Triton's schedule policy extension). For the tenant, a header wins over a
parameter, since a gateway can set or remove headers but not parameters in a body. For class and priority,
which the caller chooses, the parameter wins. A caller's key bounds all three. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final, get_args

from salver.words.errors import InvalidInput
from salver.words.messages import ANYBODY, Parameter, Service, Standing

CLASS_HEADER: Final = b"x-service-class"
PRIORITY_HEADER: Final = b"x-priority"
#: Parameters that :func:`from_parameters` reads.
PARAMETERS: Final = frozenset(("tenant", "service_class", "priority"))

#: Tenant of a grant whose holder may name any.
ANY_TENANT: Final = "*"
_CLASSES: Final[tuple[Service, ...]] = get_args(Service)
MAX_TENANT: Final = 128
MAX_PRIORITY: Final = 1 << 32


def from_headers(
    headers: Mapping[bytes, bytes], tenant_header: bytes, granted: Standing | None = None
) -> Standing:
    """Return the standing in the headers, with defaults for missing ones.

    Args:
        headers: Values by lower-case name.
        tenant_header: Lower-case name of the tenant's header; empty = no tenants.
        granted: Best standing that the caller may have, and what missing headers stand for; None = any.

    Raises:
        InvalidInput: a header is invalid; the error names it.

    >>> from_headers({b"x-tenant": b"acme", b"x-priority": b"1"}, b"x-tenant")
    Standing(tenant='acme', priority=1, service='normal', granted=None)
    """
    tenant = None
    if tenant_header:
        tenant = headers.get(tenant_header)
    service = headers.get(CLASS_HEADER)
    level = headers.get(PRIORITY_HEADER)
    usual = ANYBODY if granted is None else granted
    if tenant is service is level is None and _is_common(usual):
        return ANYBODY
    said = Standing(
        "" if tenant is None else _tenant(tenant.decode("latin-1"), tenant_header.decode()),
        0 if level is None else _priority(_number(level), PRIORITY_HEADER.decode()),
        usual.service if service is None else _service(service.decode("latin-1"), CLASS_HEADER.decode()),
    )
    return said if granted is None else within(granted, said)


def _is_common(granted: Standing) -> bool:
    """Return whether a request without headers has no standing of its own."""
    return granted.tenant in ("", ANY_TENANT) and not granted.priority and granted.service == "normal"


def within(granted: Standing, asked: Standing) -> Standing:
    """Return a standing that is no better than what is granted.

    The model's levels are known later only (:meth:`Standing.bounded`).

    >>> within(Standing("acme", 2), Standing("other", 1, "bulk")).service
    'bulk'
    """
    tenant = asked.tenant if granted.tenant == ANY_TENANT else granted.tenant
    service = max(asked.service, granted.service, key=_CLASSES.index)
    return Standing(tenant, max(asked.priority, granted.priority), service, granted)


def from_parameters(
    said: Standing, parameters: Mapping[str, Parameter], granted: Standing | None = None
) -> Standing:
    """Return a standing from headers, amended by the request's parameters.

    Args:
        granted: Best standing that the caller may have; None = the one of ``said``, if any.

    Raises:
        InvalidInput: a parameter is invalid; the error names it.

    >>> from_parameters(Standing("acme"), {"tenant": "other", "service_class": "bulk"})
    Standing(tenant='acme', priority=0, service='bulk', granted=None)
    """
    granted = granted or said.granted
    tenant, priority, service = said.tenant, said.priority, said.service
    if "tenant" in parameters:
        tenant = tenant or _tenant(parameters["tenant"], "parameters.tenant")
    if "priority" in parameters:
        priority = _priority(parameters["priority"], "parameters.priority")
    if "service_class" in parameters:
        service = _service(parameters["service_class"], "parameters.service_class")
    standing = Standing(tenant, priority, service)
    return standing if granted is None else within(granted, standing)


def _tenant(value: Any, field: str) -> str:
    if isinstance(value, str) and len(value) <= MAX_TENANT and value.isascii() and value.isprintable():
        return value
    raise InvalidInput(
        f"the tenant in {field} must be text of printable ASCII characters",
        field=field,
        fix=f"Send at most {MAX_TENANT} characters.",
    )


def _service(value: Any, field: str) -> Service:
    for known in _CLASSES:
        if value == known:
            return known
    raise InvalidInput(
        f"the service class in {field} is none that exists",
        field=field,
        fix=f"Send one of {', '.join(_CLASSES)}.",
    )


def _priority(value: Any, field: str) -> int:
    if type(value) is int and 0 <= value <= MAX_PRIORITY:
        return value
    raise InvalidInput(
        f"the priority in {field} must be a whole number from 0 to {MAX_PRIORITY}",
        field=field,
        fix="Send 1 for the highest level, 0 for the model's default.",
    )


def _number(header: bytes) -> int | None:
    text = header.strip()
    if text.isdigit() and len(text) <= 10:
        return int(text)
    return None
