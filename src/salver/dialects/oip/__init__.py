"""Open Inference Protocol (KServe v2), over HTTP and gRPC."""

from salver.feature import Feature

feature = Feature(
    "oip",
    "salver.dialects.oip.building:build",
    after=("telemetry", "registry", "identity", "keyring", "torchserve-forms"),
)
