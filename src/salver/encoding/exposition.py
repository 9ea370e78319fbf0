"""Prometheus' text format: content type, types of families, and the choice of families by name. Pure."""

from collections.abc import Collection
from typing import Final

#: Content type of the format that every reader knows.
PLAIN: Final = b"text/plain; version=0.0.4; charset=utf-8"
#: Type of a counter whose name does not end in ``_total``: OpenMetrics has none, and calls it unknown.
COUNTER: Final = "unknown"


def chosen(page: bytes, names: Collection[str]) -> bytes:
    """Return the page with the samples of these names only; no names means all samples (TS-M11).

    >>> chosen(b"# TYPE a counter\\na_total 1\\n# TYPE b gauge\\nb{c=\\"d\\"} 2\\n", ["b"])
    b'# TYPE b gauge\\nb{c="d"} 2\\n'
    """
    if not names:
        return page
    wanted = {name.encode("utf-8", "replace") for name in names}
    kept: list[bytes] = []
    about: list[bytes] = []
    for line in page.splitlines(keepends=True):
        if line.startswith(b"#"):
            if about and line.split(b" ", 3)[2:3] != about[-1].split(b" ", 3)[2:3]:
                about.clear()
            about.append(line)
        elif line.partition(b" ")[0].partition(b"{")[0] in wanted:
            kept += about
            about.clear()
            kept.append(line)
    return b"".join(kept)
