"""Records of ``rules.toml``. Pure."""

from typing import Annotated, Final, Literal

import msgspec

from salver.kernel.serving.standing import MAX_PRIORITY
from salver.words.messages import Service

#: Any value of a header or parameter.
ANY: Final = "*"
#: A longer header is known by its digest only.
_Text = Annotated[str, msgspec.Meta(max_length=199)]
_Texts = _Text | tuple[_Text, ...]
_Value = _Text | int | float | bool
_Values = _Value | tuple[_Value, ...]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Conditions of a rule, all of which must hold.

    Several values are alternatives; ``*`` is any value, and an empty one none.

    Attributes:
        model: Name that the caller asks for.
        version: Version, label or alias that the caller names.
        tenant: Tenant of the request.
        header: Values by the header's name (gRPC: metadata), in lower case.
        parameter: Values by the request parameter's name.
        hours: Times of day in a zone, such as ``22:00-06:00 Europe/Berlin``; without a zone in UTC.
        rows: Comparison with the length of the first input's first axis, such as ``> 64``.
        size: Comparison with the bytes of all inputs, such as ``> 1MiB``.
    """

    model: _Texts = ()
    version: _Texts = ()
    tenant: _Texts = ()
    header: dict[_Name, _Texts] = {}
    parameter: dict[_Name, _Values] = {}
    hours: _Text = ""
    rows: _Text = ""
    size: _Text = ""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of the requests that a rule matches; empty = as they are.

    Attributes:
        model: Model that answers in place of the one that is named.
        version: Its version, label or alias.
        group: Group of the model's instances (``instances.toml``).
        timeout: Time to answer, such as ``200ms``; an earlier deadline of the caller holds.
        priority: Priority level, 1 is the highest; a key's bound holds.
        service: Service class.
        shadow: Model that gets a copy, whose answer is dropped.
    """

    model: _Text = ""
    version: _Text = ""
    group: _Text = ""
    timeout: _Text = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] = 0
    service: Service | Literal[""] = msgspec.field(name="class", default="")
    shadow: _Text = ""


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Refusal of the requests that a rule matches.

    Attributes:
        code: Kind of the error, which each protocol tells in its own form.
        message: Its text.
        retry_after: Time after which to try again, such as ``5s``; of ``overloaded`` and ``rate_limited``.
    """

    code: Literal[
        "forbidden", "not_found", "not_ready", "overloaded", "rate_limited", "too_large", "unsupported"
    ]
    message: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    retry_after: _Text = ""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule; one that neither sets nor refuses anything exempts requests from those after it.

    Attributes:
        name: Name in lists and metrics.
        when: Conditions.
        settings: What it sets.
        refuse: Error with which requests are refused; None = they are not.
    """

    name: _Name
    when: When = When()
    settings: Settings = msgspec.field(name="set", default=Settings())
    refuse: Refusal | None = None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of ``rules.toml``; the first rule that matches a request decides."""

    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=1000)] = ()
