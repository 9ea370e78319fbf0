"""Budget of retries, so that they never multiply the load of servers that fail.

Each request adds a share of a retry, each retry takes one: over any time there are at most ``ratio *
requests + reserve`` of them (Finagle's RetryBudget, without its floor per second). Pure.
"""


class RetryBudget:
    """Budget of one model.

    Args:
        ratio: Retries per request.
        reserve: Retries that are there at the start, and the most that are saved.
    """

    __slots__ = ("_ratio", "_reserve", "tokens")

    def __init__(self, ratio: float, reserve: float) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self.tokens = reserve

    def __repr__(self) -> str:
        return f"<RetryBudget {self.tokens:.1f} of {self._reserve:g}>"

    def request(self) -> None:
        """Record a request."""
        self.tokens = min(self._reserve, self.tokens + self._ratio)

    def take(self) -> bool:
        """Take a retry; return False if there is none left."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
