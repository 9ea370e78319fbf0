"""What can be wrong with a metric, or with the file that declares them?"""


class GeneralMetricsCacheError(Exception):
    """Something else."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Generic error: {message}")


class MetricsCacheIOError(IOError):
    """The file cannot be read."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Error reading file: {message}")


class MetricsCachePyYamlError(ValueError):
    """The file is no YAML."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Error parsing file: {message}")


class MetricsCacheTypeError(TypeError):
    """An argument is of the wrong type."""


class MetricsCacheValueError(ValueError):
    """An argument has no such value."""


class MetricsCacheKeyError(KeyError):
    """There is no such metric, or the file lacks a key."""
