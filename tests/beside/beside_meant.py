"""Which differences are meant? Each rule has its row in ``docs/reference/conformance.md``.

A rule is a pattern of what tritonserver answered and one of what Salver did, each ``STATUS | text``, names
and numbers left out (``class_of`` in ``beside_triton.py``).
"""

import re

_RULES: tuple[tuple[str, str, str], ...] = (
    (
        "JSON that cannot be parsed, or of the wrong type",
        r"(500|400|200) .*(Unable to parse|failed to get|attempt to|[Ff]ailed to parse)",
        r"400 ",
    ),
    ("a shape that does not fit its data", r"(400|200|500) ", r"400 . Shape does not match true shape"),
    ("what is not a JSON object, where it is passed over", r"200 ", r"400 . .*must be (a JSON|an) object"),
    ("an integer that its datatype cannot hold", r"200 ", r"400 . .*(out of the range|too large for)"),
    ("BOOL as 0 and 1, integers as true and false", r"500 .*attempt to access JSON non-", r"200 "),
    ("more rows than max_batch_size", r"\S+ . .*batch-size must be <=", r"(200|OK) "),
    (
        "outputs that are not as configured",
        r"(200|OK) ",
        r"(500|400|INTERNAL|OK) .*(did not give its output|output '…'.* is |output '…'.*has shape)",
    ),
    ("where the program raised is for the log", r"(500|400|OK|INTERNAL) .*\n+At:", r"(500|400|OK|INTERNAL) "),
    ("codes of encodings in capitals, and spaces, as in RFC 9110", r"501 . Unsupported compression", r"200 "),
    ("an output that is requested twice", r"(200|OK) ", r"(400|INVALID_ARGUMENT) .*already requested"),
    (
        "a configuration that is refused says why",
        r"500 .*failed to poll",
        r"(500 .*failed to poll|400 .*load failed)",
    ),
    (
        "a version with a leading zero is another version",
        r"(200|400|500|OK) ",
        r"(404|400|NOT_FOUND|INVALID_ARGUMENT|OK) .*version N is not found",
    ),
)


def meant(theirs: str, ours: str, path: str = "") -> str:
    """The rule's name, or nothing."""
    if path.endswith("/ready") and theirs == ours:
        return "ready over HTTP has a body"
    for name, left, right in _RULES:
        if re.match(left, theirs, re.S) and re.match(right, ours, re.S):
            return name
    return ""
