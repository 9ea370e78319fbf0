"""Open Inference Protocol (KServe v2), over HTTP and gRPC."""

import msgspec

from salver.feature import Feature


class OipConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the protocol.

    Attributes:
        is_lenient: See :func:`salver.dialects.oip.lenience.fitted`.
    """

    is_lenient: bool = False


feature = Feature(
    "oip",
    "salver.dialects.oip.building:build",
    config=OipConfig,
    has_table=False,
    after=("telemetry", "registry", "identity", "keyring", "torchserve-forms"),
)
