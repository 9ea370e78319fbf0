"""Whether a tensor can have one shape for callers and another for the model (TR-C4, TR-C5). Pure."""

from collections.abc import Mapping, Sequence

from salver.words.messages import TensorSpec


def misfit(seen: Sequence[int], own: Sequence[int]) -> str:
    """Return why the shapes do not fit, in Triton's words; empty if they do.

    Between free extents both must have equally many elements.

    >>> misfit([-1, 2, 2], [-1, 4]), misfit([2, 4, -1, 6], [8, -1, 1, 6])
    ('', '')
    >>> misfit([2, 3], [5])
    'has different size for dims and reshape'
    """
    if any(n < -1 or n == 0 for n in own):
        return "has a reshape with extents that are neither positive nor -1"
    one, other = _chunks(seen), _chunks(own)
    if len(one) != len(other):
        return "has different number of variable-size dimensions for dims and reshape"
    if one == other:
        return ""
    return "has different size for dims and reshape"


def table_misfit(specs: Sequence[TensorSpec], own: Mapping[str, Sequence[int]]) -> str:
    """Return why a table of shapes, by tensor, does not fit; empty if it does."""
    seen = {spec.name: spec.shape for spec in specs}
    for name, shape in own.items():
        if name not in seen:
            return f"{name!r} has a reshape, and no shape that callers see"
        if problem := misfit(seen[name], shape):
            return f"{name!r} {problem}"
    return ""


def _chunks(shape: Sequence[int]) -> list[int]:
    """Return how many elements lie between the free extents."""
    chunks = [1]
    for extent in shape:
        if extent < 0:
            chunks.append(1)
        else:
            chunks[-1] *= extent
    return chunks
