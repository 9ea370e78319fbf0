"""Errors of metrics and of files that declare them."""


class GeneralMetricsCacheError(Exception):
    """Any other error."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Generic error: {message}")


class MetricsCacheIOError(IOError):
    """A file cannot be read."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Error reading file: {message}")


class MetricsCachePyYamlError(ValueError):
    """A file is not valid YAML."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Error parsing file: {message}")


class MetricsCacheTypeError(TypeError):
    """An argument has the wrong type."""


class MetricsCacheValueError(ValueError):
    """An argument has an invalid value."""


class MetricsCacheKeyError(KeyError):
    """A metric does not exist, or the file lacks a key."""
