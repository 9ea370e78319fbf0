"""Options of the Open Inference Protocol that an operator sets. Pure."""

import msgspec

from salver.dialects.oip.regions import NO_REGIONS, RegionRegistry


class OipRules(msgspec.Struct, frozen=True):
    """How requests of the Open Inference Protocol are read.

    Attributes:
        regions: Memory that callers share with the server.
        max_body: Most bytes of a tensor that JSON brings; 0 = no limit.
        ignores_surplus: As :func:`salver.dialects.oip.grpc_codec.read_infer`.
    """

    regions: RegionRegistry = NO_REGIONS
    max_body: int = 0
    ignores_surplus: bool = False
