"""TorchServe: REST, gRPC, archives, handlers, metrics, configuration and command line."""

from salver.feature import Feature

#: Handlers for callers of other protocols; built first, since other dialects use it.
forms = Feature("torchserve-forms", "salver.dialects.torchserve.building:build_forms")
feature = Feature(
    "torchserve",
    "salver.dialects.torchserve.building:build",
    formats="salver.dialects.torchserve.building:FORMATS",
    # Its ports read the headers for which rules ask.
    after=("oip", "torchserve-forms", "rules"),
)
