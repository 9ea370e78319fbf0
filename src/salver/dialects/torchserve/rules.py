"""What may the operator of TorchServe's protocols set?

Read by its transports and codecs; where the values come from (config.properties, options) is not known here.

Pure.
"""

from typing import Final

import msgspec

#: Headers that carry a sequence's id, and say that a request is its first or its last one.
SEQUENCE_HEADERS: Final = (
    "ts_request_sequence_id",
    "ts_request_sequence_start",
    "ts_request_sequence_end",
)


class TokenRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Callers must show keys (TS-B11).

    Attributes:
        file: Where the keys are written when the server starts, and when they are renewed.
        minutes: How long a key is good, but for the one with which others are renewed.
    """

    file: str = "key_file.json"
    minutes: float = 60.0


class TorchServeRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What its routes do.

    Attributes:
        tokens: None = everybody may ask.
        may_change: Models may be registered and unregistered (``enable_model_api``); the server takes it from
            what the store of handlers allows.
        max_request, max_response: Most bytes of a body; 0 = as of all protocols, and as many as one likes.
        sequence_headers: Names; see :data:`SEQUENCE_HEADERS`.
        cors_origin, cors_methods, cors_headers: What every reply allows pages to do; empty = nothing is said.
        speaks_oip: ``/v2`` and ``/v2/health`` are answered at its inference port, in its own words (TS-R11).
        has_metrics: There is a page of metrics at its metrics port (``enable_metrics_api``).
        shows_metrics: And something on it (``metrics_mode`` is not ``log``).
    """

    tokens: TokenRules | None = None
    may_change: bool = False
    max_request: int = 0
    max_response: int = 0
    sequence_headers: tuple[str, str, str] = SEQUENCE_HEADERS
    cors_origin: str = ""
    cors_methods: str = ""
    cors_headers: str = ""
    speaks_oip: bool = False
    has_metrics: bool = True
    shows_metrics: bool = True

    @property
    def cors(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that allow pages to ask (TS-C6)."""
        said = (
            (b"access-control-allow-origin", self.cors_origin),
            (b"access-control-allow-methods", self.cors_methods),
            (b"access-control-allow-headers", self.cors_headers),
        )
        return tuple([(name, value.encode("latin-1", "replace")) for name, value in said if value])
