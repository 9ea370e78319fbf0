"""A device whose memory is a row of blocks: first fit, and nothing moves."""

from salver.features.memory.ports import DeviceUse


class SimulatedDevice:
    """Memory of one device, by owner."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._blocks: list[tuple[int, int, int]] = []  # start, size, owner; ascending

    def holes(self) -> list[tuple[int, int]]:
        """Where it is free, and how much."""
        ends = [0, *(start + size for start, size, _ in self._blocks)]
        starts = [*(start for start, _, _ in self._blocks), self.total]
        return [(end, start - end) for end, start in zip(ends, starts, strict=True) if start > end]

    def take(self, owner: int, size: int) -> bool:
        """Take one piece; False = there is none so large."""
        for start, free in self.holes():
            if free >= size:
                self._blocks = sorted([*self._blocks, (start, size, owner)])
                return True
        return False

    def free(self, owner: int) -> None:
        """End a process: all its pieces are free."""
        self._blocks = [block for block in self._blocks if block[2] != owner]

    def of(self, owner: int) -> int:
        return sum(size for _, size, other in self._blocks if other == owner)

    def use(self) -> DeviceUse:
        free = [size for _, size in self.holes()]
        processes = {owner: self.of(owner) for _, _, owner in self._blocks}
        return DeviceUse(self.total, sum(free), max(free, default=0), processes)
