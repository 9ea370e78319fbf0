"""Raw inputs of ``salver infer``: a text, JSON, or a file with the content type of its ending."""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.client import Client
from salver.terminal.options import token
from salver.terminal.output import line, on_terminal, record, table
from salver.terminal.raw_answers import tabulated
from salver.words.errors import InvalidInput

#: Content types by the ending of a file.
TYPES: Final = {
    **{f".{kind}": f"image/{kind}" for kind in ("png", "webp", "gif", "bmp", "tiff")},
    **dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"),
    ".tif": "image/tiff",
    **{f".{kind}": f"audio/{kind}" for kind in ("wav", "flac", "ogg")},
    ".mp3": "audio/mpeg",
    ".m4a": "audio/m4a",
    ".txt": "text/plain",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.stream",
}


class RawInputs(msgspec.Struct, frozen=True):
    """Raw inputs as options give them; all but one of the first four are unset.

    Attributes:
        inputs, parameters: JSON; no parameters = empty.
    """

    file: Path | None = None
    csv: Path | None = None
    text: str | None = None
    inputs: str = ""
    parameters: str = ""

    @property
    def are_given(self) -> bool:
        """Whether there are any."""
        return self != RawInputs()


def body_of(raw: RawInputs) -> tuple[bytes, str]:
    """Return the body of a request and its content type.

    Raises:
        InvalidInput: not exactly one input is given, an option is not JSON, or a file cannot be read.
    """
    given = [raw.file is not None, raw.csv is not None, raw.text is not None, bool(raw.inputs)]
    if sum(given) != 1:
        raise InvalidInput("give one of --file, --csv, --text and --inputs")
    parameters = _parsed(raw.parameters or "{}", "--parameters")
    path = raw.file or raw.csv
    if path is None:
        inputs = raw.text if raw.text is not None else _parsed(raw.inputs, "--inputs")
        body = {"inputs": inputs, **({"parameters": parameters} if parameters else {})}
        return msgspec.json.encode(body), "application/json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", field="--file") from None
    kind = "text/csv"
    if raw.csv is None:
        kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
    return _form(content, kind, raw.parameters) if parameters else (content, kind)


def _form(content: bytes, kind: str, parameters: str) -> tuple[bytes, str]:
    """Return a form with a file and parameters."""
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="'
    whole = (
        f'{head}parameters"\r\n\r\n{parameters}\r\n'
        f'{head}data"; filename="data"\r\nContent-Type: {kind}\r\n\r\n'
    )
    return b"%b%b\r\n--%b--\r\n" % (
        whole.encode(),
        content,
        mark.encode(),
    ), f"multipart/form-data; boundary={mark}"


def _parsed(text: str, option: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"{option} is not JSON: {error}", field=option) from None


def infer_raw(model: str, raw: RawInputs, version: str, url: str, *, json: bool) -> int:
    """Send raw inputs; show the answer as a table on a terminal, and as JSON in a pipe."""
    return asyncio.run(_infer(model, *body_of(raw), version, url, json=json))


async def _infer(model: str, body: bytes, kind: str, version: str, url: str, *, json: bool) -> int:
    async with Client(url, token=token()) as client:
        start = time.perf_counter()
        answer = await client.ask_raw(model, body, kind, version=version)
        elapsed = (time.perf_counter() - start) * 1e3
    if json or not on_terminal():
        record(answer)
        return 0
    table(*tabulated(answer))
    line(f"{elapsed:.2f} ms")
    return 0
