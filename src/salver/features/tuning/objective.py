"""Text form of objectives on the command line, and of settings in ``salver.toml``.

Pure: text to records and back.
"""

from salver.kernel.repository.toml import milliseconds
from salver.words.artifacts import Objective
from salver.words.errors import InvalidInput

_KEYS = {"latency_p99": "latency_p99_ms", "deadline": "deadline_ms"}


def parse(text: str) -> Objective:
    """Parse ``latency_p99=50ms``, ``deadline=100ms`` or ``throughput``; empty = none.

    Raises:
        InvalidInput: it has another form, or its time is 0 or has no unit.

    >>> parse("latency_p99=50ms")
    Objective(latency_p99_ms=50.0, deadline_ms=0.0, throughput=False, rate=0.0)
    >>> parse("deadline=.25s").deadline_ms, parse("throughput").throughput, parse("") == Objective()
    (250.0, True, True)
    """
    if not text:
        return Objective()
    if text == "throughput":
        return Objective(throughput=True)
    key, _, value = text.partition("=")
    if key not in _KEYS:
        raise InvalidInput(
            f"--objective {text!r} is not known", fix="Say latency_p99=50ms, deadline=100ms or throughput."
        )
    try:
        limit = milliseconds(value)
    except ValueError as error:
        raise InvalidInput(f"--objective {text!r}: {error}", fix=f"Say for instance {key}=50ms.") from error
    if key == "deadline":
        return Objective(deadline_ms=limit)
    return Objective(latency_p99_ms=limit)


def named(objective: Objective) -> str:
    """Return the objective as text.

    >>> named(Objective(deadline_ms=100)), named(Objective())
    ('deadline 100 ms', 'no objective')
    """
    if objective.latency_p99_ms:
        return f"p99 within {objective.latency_p99_ms:g} ms"
    if objective.deadline_ms:
        return f"deadline {objective.deadline_ms:g} ms"
    if objective.throughput:
        return "throughput"
    return "no objective"


def as_toml(objective: Objective, instances: int, threads: int, max_rows: int) -> str:
    """Return the lines of ``salver.toml`` that fix a setting.

    >>> print(as_toml(Objective(latency_p99_ms=50), 1, 2, 32))
    objective = { latency_p99 = "50ms" }
    <BLANKLINE>
    [instances]
    count = 1
    threads = 2
    <BLANKLINE>
    [batching]
    max_rows = 32
    """
    blocks = []
    if objective.latency_p99_ms:
        blocks.append(f'objective = {{ latency_p99 = "{objective.latency_p99_ms:g}ms" }}')
    elif objective.deadline_ms:
        blocks.append(f'objective = {{ deadline = "{objective.deadline_ms:g}ms" }}')
    elif objective.throughput:
        blocks.append('objective = "throughput"')
    blocks.append(f"[instances]\ncount = {instances}\nthreads = {threads}")
    blocks.append(f"[batching]\nmax_rows = {max_rows}")
    return "\n\n".join(blocks)
