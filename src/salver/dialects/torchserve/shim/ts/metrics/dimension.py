"""Dimensions of metrics, with names and values."""


class Dimension:
    """A name and its value."""

    def __init__(self, name: str, value: object) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, object]:
        """Return the dimension as JSON."""
        return {"Name": self.name, "Value": self.value}
