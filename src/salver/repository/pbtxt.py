"""What does Triton's ``config.pbtxt`` ask for, and what of it is done here?"""

from salver.artifacts import ModelConfig
from salver.errors import InvalidInput

Translated = tuple[ModelConfig, dict[str, str], tuple[str, ...]]


def parse_pbtxt(content: bytes, origin: str, name: str) -> Translated:
    """Placeholder."""
    raise InvalidInput(f"{origin}: not read yet")


def parse_json(text: str, name: str) -> Translated:
    """Placeholder."""
    raise InvalidInput(f"{name}: not read yet")
