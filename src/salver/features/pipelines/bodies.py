"""Inputs and parameters in the body of a request: JSON, a text, a file, delimited text, or a form.

Pure.
"""

import csv
from collections.abc import Mapping, Sequence
from typing import Any, Final

from salver.encoding.bodies import HttpBody, media_type
from salver.encoding.json_text import kind_of, loads
from salver.encoding.multipart import MOST_PARTS, MULTIPART, FormPart, multipart
from salver.features.pipelines.names import OF_FILES, OF_SOUNDS
from salver.features.pipelines.tables import DELIMITED
from salver.words.errors import InvalidInput, TooLarge
from salver.words.messages import PIPELINE, Signature

NO_TEXTS: Final = "Send a text, or a list of texts."
IMAGE: Final = (
    'Send the bytes of an image with its content type (image/jpeg, image/png, …), or {"inputs": "<base64>"}, '
    "or a list of them."
)
SOUND: Final = (
    'Send the bytes of a sound with its content type (audio/wav, audio/flac, …), or {"inputs": "<base64>"}, '
    "or a list of them."
)
JSON: Final = (b"", b"application/json", b"application/x-www-form-urlencoded")
#: Delimited text is read where the request is, in a few milliseconds.
_MOST_DELIMITED: Final = 1 << 20
_LONGEST_VALUE: Final = 131_072  # csv's own limit, which others in the process may change
#: Names of a form's field for inputs that have no name of their own.
_DATA: Final = frozenset(("inputs", "data", "body", "file"))
#: Names of texts in inputs that are no inputs of a network.
_TEXTS: Final = frozenset(("query", "texts", "source_sentence", "sentences", "sequences"))
_LISTS: Final = frozenset(("texts", "sentences"))


def file_fix(task: str) -> str:
    """Return how the files of a task are sent."""
    return SOUND if task in OF_SOUNDS else IMAGE


def parts(http: HttpBody, signature: Signature) -> tuple[Any, Mapping[str, Any]]:
    """Return the inputs and the parameters of a body.

    Raises:
        InvalidInput: it is malformed, or its content type does not suit the task.
        TooLarge: it is delimited text of more than a megabyte.
    """
    kind = media_type(http.headers)
    if kind == MULTIPART.encode():
        return of_form(http, signature)
    if signature.platform == PIPELINE:
        return _pipeline_parts(http, kind)
    if signature.task in OF_FILES:
        return _file_parts(http, kind, signature.task)
    if kind in DELIMITED:
        return _rows(bytes(http.content), DELIMITED[kind], signature), {}
    if kind.startswith((b"image/", b"audio/", b"video/")):
        raise InvalidInput(
            f"the model takes texts, not {kind[:80].decode('latin-1')}", field="content-type", fix=NO_TEXTS
        )
    if kind == b"text/plain":
        return _decoded(http.content), {}
    return json_parts(http.content)


def _pipeline_parts(http: HttpBody, kind: bytes) -> tuple[Any, Mapping[str, Any]]:
    """Return the same for a pipeline, whose only input may be the body itself."""
    body = http.content
    if kind in JSON and (kind == b"application/json" or bytes(body[:64]).lstrip().startswith(b"{")):
        return json_parts(body)
    return bytes(body), {}


def _file_parts(http: HttpBody, kind: bytes, task: str) -> tuple[Any, Mapping[str, Any]]:
    """Return the same for a task of images or sounds."""
    body = http.content
    what, kinds = ("sounds", (b"audio/", b"video/")) if task in OF_SOUNDS else ("images", (b"image/",))
    # Untold of the type, curl sends any file as a form, and Hugging Face's client without a type.
    is_file = kind in (JSON[0], JSON[2]) and not bytes(body[:64]).lstrip().startswith(b"{")
    if is_file or kind.startswith(kinds) or kind == b"application/octet-stream":
        return bytes(body), {}
    if kind not in JSON:
        raise InvalidInput(
            f"the model takes {what}, not {kind[:80].decode('latin-1')}",
            field="content-type",
            fix=file_fix(task),
        )
    return json_parts(body)


def json_parts(body: bytes | memoryview) -> tuple[Any, Mapping[str, Any]]:
    """Return ``inputs`` and ``parameters`` of a JSON object. Raises InvalidInput."""
    root = loads(body)
    if type(root) is not dict:
        raise InvalidInput(
            f"the request must be a JSON object, not {kind_of(root)}", fix='Send {"inputs": …}.'
        )
    return root_parts(root)


def root_parts(root: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Return ``inputs`` and ``parameters`` of an object. Raises InvalidInput."""
    if "inputs" not in root:
        raise InvalidInput("inputs is missing", field="inputs", fix='Send {"inputs": …, "parameters": {…}}.')
    if unknown := [name for name in root if name not in ("inputs", "parameters", "options")]:
        raise InvalidInput(
            f"{unknown[0][:100]} is unknown; a request has inputs and parameters",
            field=unknown[0][:100],
            fix='Put it into "parameters", if it is one.',
        )
    return root["inputs"], parameters_of(root)


def parameters_of(root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``parameters`` of an object; none if it has none. Raises InvalidInput."""
    parameters = root.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise InvalidInput(
            f"parameters must be an object, not {kind_of(parameters)}",
            field="parameters",
            fix='Send, for example, {"parameters": {"top_k": 2}}.',
        )
    return parameters


def _decoded(data: bytes | memoryview, encoding: str = "utf-8") -> str:
    try:
        return bytes(data).decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the text is not valid UTF-8 ({error.reason} at byte {error.start})",
            fix="Send it encoded as UTF-8.",
        ) from error


def _rows(body: bytes, delimiter: str, signature: Signature) -> list[Any]:
    """Return the inputs in delimited text, whose header names them: ``inputs``, or those of the task."""
    if len(body) > _MOST_DELIMITED:
        raise TooLarge(
            f"the delimited text has {len(body)} bytes; at most {_MOST_DELIMITED} are read",
            fix="Send several requests, or JSON.",
        )
    names = [spec.name for spec in signature.inputs]
    fix = f"Its first line names the columns: inputs, or {','.join(names)}."
    lines = (line + "\n" for line in _decoded(body, "utf-8-sig").split("\n"))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if header != ["inputs"] and (not header or header != names[: len(header)]):
            raise InvalidInput(f"the columns are {', '.join(header)[:200] or 'none'}", field="body", fix=fix)
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise InvalidInput(
                    f"line {reader.line_num} has {len(row)} values, and the header {len(header)}",
                    field="body",
                )
            if max(map(len, row), default=0) > _LONGEST_VALUE:
                raise InvalidInput(
                    f"line {reader.line_num} of the delimited text has a value of more than {_LONGEST_VALUE} "
                    "characters",
                    field="body",
                    fix="Send it as JSON.",
                )
            if row:
                rows.append(row)
    except csv.Error as error:
        raise InvalidInput(f"line {reader.line_num} of the delimited text: {error}", field="body") from error
    if len(header) == 1:
        return [row[0] for row in rows]
    if signature.task == "text-ranking":
        return rows
    return [dict(zip(header, row, strict=True)) for row in rows]


def form_parts(http: HttpBody) -> list[FormPart]:
    """Return the fields of a multipart body.

    Raises:
        InvalidInput: it is malformed, ends early, has no fields or too many.
    """
    body = bytes(http.content)
    kind = http.headers.get(b"content-type", b"").decode("latin-1")
    fields = list(multipart(body, kind, lambda text: InvalidInput(f"the form is malformed: {text}")))
    if len(fields) > MOST_PARTS:
        raise InvalidInput(f"the form has more than {MOST_PARTS} fields", field="body")
    # The parser ignores what follows a field that does not end, so the last boundary has to be there.
    last = body.rstrip(b"\r\n").rpartition(b"\n")[2]
    if not fields or last[-2:] != b"--" or len(last) < 5 or not body.lstrip().startswith(last[:-2]):
        raise InvalidInput(
            "the form has no fields, or ends early",
            field="body",
            fix="Send its fields as multipart/form-data, such as curl -F data=@photo.jpg.",
        )
    return fields


def file_of_form(http: HttpBody) -> HttpBody:
    """Return the only field of a form as a body of its own. Raises InvalidInput."""
    fields = form_parts(http)
    if len(fields) > 1:
        raise InvalidInput(
            f"the form has {len(fields)} fields", field="body", fix="Send one file, with its content type."
        )
    kind = {b"content-type": (fields[0].content_type or "application/json").encode()}
    return HttpBody(http.model, http.version, bytes(fields[0].data), kind)


def of_form(http: HttpBody, signature: Signature) -> tuple[Any, Mapping[str, Any]]:
    """Return the inputs and the parameters in the fields of a form.

    A field that has the name of an input is that one; other files, and ``data`` or ``inputs``, are inputs
    without a name, and all others are parameters. Several fields of a name are a list. Raises InvalidInput.
    """
    takes_files = signature.platform == PIPELINE or signature.task in OF_FILES
    own = {spec.name for spec in signature.inputs}
    data: list[Any] = []
    named: dict[str, list[Any]] = {}
    parameters: dict[str, Any] = {}
    for field in form_parts(http):
        if field.name == "parameters":
            parameters |= parameters_of({"parameters": loads(field.data)})
        elif field.name in own or (field.name in _TEXTS and signature.platform != PIPELINE):
            named.setdefault(field.name, []).append(_value(field, takes_files))
        elif field.content_type or field.name in _DATA:
            data.append(_value(field, takes_files))
        else:
            _add(parameters, field)
    if named and data:
        raise InvalidInput(f"the form has inputs with and without a name: {', '.join(named)}", field="body")
    if not named and not data:
        raise InvalidInput("the form has no inputs", field="data", fix="Name the field of a file data.")
    return _united(named, signature) if named else _single(data), parameters


def _value(field: FormPart, takes_files: bool) -> Any:
    if field.content_type == "application/json":
        return loads(field.data)
    if field.content_type and takes_files:
        return bytes(field.data)
    return _decoded(field.data)


def _add(parameters: dict[str, Any], field: FormPart) -> None:
    """Add a parameter, whose text is JSON if it can be."""
    try:
        value = loads(field.data)
    except InvalidInput:
        value = _decoded(field.data)
    before = parameters.get(field.name)
    if before is not None:
        value = [*(before if isinstance(before, list) else [before]), value]
    parameters[field.name] = value


def _united(named: Mapping[str, list[Any]], signature: Signature) -> Any:
    if len(named) == 1 and signature.task in OF_FILES:
        return _single(*named.values())
    return {name: values if name in _LISTS else _single(values) for name, values in named.items()}


def _single(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)
