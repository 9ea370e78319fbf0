"""Settings of TorchServe's protocol, read by its codecs and routes.

Where the values come from (config.properties, options) is not known here. Pure.
"""

from typing import Final

import msgspec

#: Headers with the id of a sequence, and with flags for its first and last request.
SEQUENCE_HEADERS: Final = (
    "ts_request_sequence_id",
    "ts_request_sequence_start",
    "ts_request_sequence_end",
)


class TokenRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the keys that callers must show (TS-B11).

    Attributes:
        file: File to which keys are written at the start, and whenever one is renewed.
        minutes: Lifetime of a key; the key that renews others does not expire.
    """

    file: str = "key_file.json"
    minutes: float = 60.0


class TorchServeRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the routes.

    Attributes:
        tokens: None = callers need no keys.
        may_change: Whether models may be registered and unregistered (``enable_model_api``); the server takes
            it from what the store of handlers allows.
        max_request, max_response: Maximum bytes of a body; 0 = the limit of all protocols, and no limit.
        sequence_headers: Names; see :data:`SEQUENCE_HEADERS`.
        cors_origin, cors_methods, cors_headers: CORS headers of every reply; empty = not sent.
        speaks_oip: Whether ``/v2`` and ``/v2/health`` are answered at the inference port as TorchServe does
            (TS-R11).
        has_metrics: Whether the metrics port has a page (``enable_metrics_api``).
        shows_metrics: Whether the page has content (``metrics_mode`` is not ``log``).
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
        """Return the CORS headers of every reply (TS-C6)."""
        headers = (
            (b"access-control-allow-origin", self.cors_origin),
            (b"access-control-allow-methods", self.cors_methods),
            (b"access-control-allow-headers", self.cors_headers),
        )
        return tuple([(name, value.encode("latin-1", "replace")) for name, value in headers if value])
