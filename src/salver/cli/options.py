"""Which options do several commands share, and how are they explained?"""

from typing import Annotated

from cyclopts import Parameter

Url = Annotated[str, Parameter(help="The server's address.", env_var="SALVER_URL")]
Json = Annotated[bool, Parameter(help="Print JSON, one object a line, instead of text.")]
Version = Annotated[str, Parameter(name="--model-version", help="Its version; the server picks without one.")]
Inputs = Annotated[
    tuple[str, ...],
    Parameter(
        name=("--input", "-i"),
        help="NAME=VALUE, once for each input. VALUE is JSON ('x=[[1,2]]'), text for a BYTES tensor, "
        "or @FILE: .npy, .json, or any other file as the bytes of one element.",
    ),
]

DEFAULT_URL = "http://127.0.0.1:8000"
