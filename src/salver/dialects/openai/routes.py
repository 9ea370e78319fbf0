"""HTTP operations of OpenAI's interface, and the paths that are its own. Pure."""

from typing import Final

from salver.transport.routes import Operation, Route, unquoted
from salver.words.errors import NoRoute, WrongVerb

#: Prefixes of the paths whose errors are OpenAI's, existing or not.
PREFIXES: Final = (b"/v1/chat/", b"/v1/completions", b"/v1/embeddings", b"/v1/audio/", b"/v1/responses")
OPERATIONS: Final = (
    Operation("list_v1", "GET", "/v1/models", "Every model with its versions and state"),
    Operation("chat", "POST", "/v1/chat/completions", "Continue a conversation (OpenAI)"),
    Operation("completions", "POST", "/v1/completions", "Complete a text (OpenAI)"),
    Operation("embeddings", "POST", "/v1/embeddings", "Embed texts (OpenAI)"),
    Operation("transcriptions", "POST", "/v1/audio/transcriptions", "Write down speech (OpenAI)"),
    Operation("translations", "POST", "/v1/audio/translations", "Write down speech in English (OpenAI)"),
    Operation("load_v1", "POST", "/v1/models/{model}/load", "Load or reload a model", changes=True),
    Operation("unload_v1", "POST", "/v1/models/{model}/unload", "Unload a model", changes=True),
)


def is_openai(raw_path: bytes) -> bool:
    """Return whether errors at a path are OpenAI's objects."""
    return raw_path.startswith(PREFIXES)


def find(verb: str, raw_path: bytes) -> Route | None:
    """Find the route of a path that no row matches: a model to load or unload may have slashes.

    Raises:
        NoRoute, WrongVerb: The path is one of OpenAI's, which has no such operation.
    """
    if verb != "OPTIONS" and is_openai(raw_path):
        if any(row.path.encode() == raw_path for row in OPERATIONS):
            raise WrongVerb("Method Not Allowed")
        raise NoRoute("Not Found")
    parts = raw_path.decode("latin-1").split("/")[1:]
    if parts[:2] != ["v1", "models"] or len(parts) < 4 or not all(parts):
        return None
    if verb != "POST" or parts[-1] not in ("load", "unload"):
        return None
    return Route(f"{parts[-1]}_v1", unquoted("/".join(parts[2:-1])))
