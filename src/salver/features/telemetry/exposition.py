"""Which metrics of a page were asked for?

The page is Prometheus' text; a caller may name those that it wants (TS-M11, X-8). It knows no metric.

Pure.
"""

from collections.abc import Collection
from typing import Final

#: Of a page in the form that every reader knows.
PLAIN: Final = b"text/plain; version=0.0.4; charset=utf-8"


def chosen(page: bytes, names: Collection[str]) -> bytes:
    """The page without samples of other names; all of it where none is named.

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
