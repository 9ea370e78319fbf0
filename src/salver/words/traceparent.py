"""The ``traceparent`` header (W3C Trace Context, level 1, section 3.2).

New ids are arguments: the caller generates them.

Pure.
"""

import re

import msgspec

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """One span of a trace.

    Attributes:
        trace_id: 32 lower-case hex digits, not all zero.
        span_id: 16 lower-case hex digits, not all zero.
        flags: Bit 0 = sampled.
    """

    trace_id: str
    span_id: str
    flags: int = 0

    @property
    def is_sampled(self) -> bool:
        """Return whether the caller records this trace."""
        return bool(self.flags & 1)


def parse(header: str) -> TraceContext | None:
    """Parse a header; return None if it must be ignored.

    A later version may append fields; its known part counts. Version ff is invalid.
    """
    parts = _FORM.fullmatch(header.strip(" \t"))
    if parts is None:
        return None
    version, trace_id, span_id, flags, rest = parts.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, int(flags, 16))


def child(parent: TraceContext, span_id: str) -> TraceContext:
    """Make a new span in the same trace, sampled like its parent.

    Raises:
        ValueError: the id is not 16 lower-case hex digits, or all zero.
    """
    if not re.fullmatch("[0-9a-f]{16}", span_id) or not span_id.strip("0"):
        raise ValueError(f"a span id has 16 lower-case hex digits, not {span_id!r}")
    return TraceContext(parent.trace_id, span_id, parent.flags & 1)


def format(context: TraceContext) -> str:
    """Format the header in version 00.

    >>> format(TraceContext("ab" * 16, "cd" * 8, 1))
    '00-abababababababababababababababab-cdcdcdcdcdcdcdcd-01'
    """
    return f"00-{context.trace_id}-{context.span_id}-{context.flags:02x}"


def below(parent: str, span_id: str) -> str:
    """Return the header of a new child span of a header written by :func:`format`.

    >>> below("00-abababababababababababababababab-cdcdcdcdcdcdcdcd-01", "ef" * 8)
    '00-abababababababababababababababab-efefefefefefefef-01'
    """
    return f"{parent[:36]}{span_id}{parent[52:]}"
