"""Can a tensor be seen in one shape and be the model's in another (TR-C4, TR-C5)?

Pure, and the same for ``salver.toml`` and ``config.pbtxt``.
"""

from collections.abc import Mapping, Sequence

from salver.words.messages import TensorSpec


def unfit(seen: Sequence[int], own: Sequence[int]) -> str:
    """Why not, in Triton's words; empty if it can: between free extents there are as many elements in both.

    >>> unfit([-1, 2, 2], [-1, 4]), unfit([2, 4, -1, 6], [8, -1, 1, 6])
    ('', '')
    >>> unfit([2, 3], [5])
    'has different size for dims and reshape'
    """
    if any(n < -1 or n == 0 for n in own):
        return "has a reshape with extents that are neither positive nor -1"
    one, other = _chunks(seen), _chunks(own)
    if len(one) != len(other):
        return "has different number of variable-size dimensions for dims and reshape"
    return "" if one == other else "has different size for dims and reshape"


def unfit_table(specs: Sequence[TensorSpec], own: Mapping[str, Sequence[int]]) -> str:
    """The same of a table of shapes; it names the tensor."""
    seen = {spec.name: spec.shape for spec in specs}
    for name, shape in own.items():
        if name not in seen:
            return f"{name!r} has a reshape, and no shape that callers see"
        if problem := unfit(seen[name], shape):
            return f"{name!r} {problem}"
    return ""


def _chunks(shape: Sequence[int]) -> list[int]:
    """Elements between the free extents."""
    chunks = [1]
    for extent in shape:
        if extent < 0:
            chunks.append(1)
        else:
            chunks[-1] *= extent
    return chunks
