"""Unpacked archives of handlers, opened here as a host process opens them, and asked."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec

from salver.backends.protocol import Answer, LoadOptions
from salver.dialects.torchserve.backend import TorchServeBackend
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.handlers import BODY, FORMAT, Form, HandlerReply, Workers, as_request, part, reply_of
from salver.words.messages import InferRequest, ModelId

BACKEND = TorchServeBackend()
JSON, TEXT, OCTETS = "application/json", "text/plain", "application/octet-stream"


@contextmanager
def own_process() -> Iterator[None]:
    """Undo what an opened handler changes in this process."""
    places, modules, folder = list(sys.path), set(sys.modules), Path.cwd()
    yield
    os.chdir(folder)
    sys.path[:] = places
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        if name.partition(".")[0] == "ts" or str(getattr(module, "__file__", "")).startswith("/tmp"):
            del sys.modules[name]
            # "from ts import one" takes what its package holds, even if the package alone stays.
            above, _, last = name.rpartition(".")
            if above in sys.modules:
                vars(sys.modules[above]).pop(last, None)


def write(folder: Path, source: str, name: str = "m", **about: Any) -> Path:
    """Make a folder as the archiver makes it.

    Args:
        about: Further words of the manifest's model; ``config`` is text of its configuration.
    """
    config = about.pop("config", None)
    (folder / "MAR-INF").mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(dedent(source))
    model = {"modelName": name, "handler": f"{name}.py", "modelVersion": "1.0", **about}
    if config is not None:
        (folder / "model-config.yaml").write_text(config)
        model["configFile"] = "model-config.yaml"
    manifest = {"createdOn": "now", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest, indent=2))
    return folder


def manifest_of(folder: Path, name: str = "m", workers: Workers | None = None, **options: str) -> Manifest:
    config = ModelConfig(workers=workers, options=options)
    return Manifest(ModelId(name, "1.0"), folder, FORMAT, "torchserve", config)


def opened(folder: Path, name: str = "m", workers: Workers | None = None, **options: str) -> Any:
    return BACKEND.load(manifest_of(folder, name, workers, **options), LoadOptions(own_process=True))


def form(body: bytes | str | None = b"", content_type: str = "", **headers: str) -> Form:
    """Return one part named ``body``; None = none."""
    if body is None:
        return Form((), headers)
    content = body.encode() if isinstance(body, str) else body
    return Form((part("body", content, content_type),), headers)


def request(asked: Form, id: str = "") -> InferRequest:
    return msgspec.structs.replace(as_request("m", asked), id=id)


def replies(model: Any, *asked: Form) -> list[HandlerReply]:
    """Return the replies to requests, without metrics."""
    return [said(answer) for answer in model.reply([request(each) for each in asked], nothing)]


def reply(model: Any, body: bytes | str | None, content_type: str = "", **headers: str) -> HandlerReply:
    (only,) = replies(model, form(body, content_type, **headers))
    return only


def said(answer: Answer) -> HandlerReply:
    return msgspec.structs.replace(whole(answer), metrics=())


def whole(answer: Answer) -> HandlerReply:
    return reply_of(answer.outputs[BODY], answer.parameters)


def nothing(index: int, piece: Answer) -> None:
    raise AssertionError(f"a piece to request {index}: {whole(piece)}")


def shown(reply: HandlerReply) -> Any:
    assert not reply.is_error, reply
    return json.loads(reply.body)
