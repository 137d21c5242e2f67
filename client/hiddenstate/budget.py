"""How many calls a client may repeat: those that are repeated must not keep down a server that is."""

import grpc

_MOST = 1000.0
_EARNED = 0.1  # by each reply: where much is refused, a tenth of the calls may come again

# To ask a server again that has too much to do adds to it. One that is not there costs nothing to ask, but for the
# others, which may have more to do for its absence.
_COSTS = {grpc.StatusCode.RESOURCE_EXHAUSTED: 1.0, grpc.StatusCode.UNAVAILABLE: 0.1}


class RetryBudget:
    """Counts what is left, as gRPC does for calls of their own. Threads may lose each other's count: it is a guard."""

    def __init__(self) -> None:
        self._left = _MOST

    def earn(self, replies: int) -> None:
        """Adds for replies that came."""
        self._left = min(_MOST, self._left + _EARNED * replies)

    def spend(self, code: grpc.StatusCode) -> bool:
        """Takes what one more attempt costs; False if there is not enough left."""
        cost = _COSTS.get(code, 1.0)
        if self._left < cost:
            return False
        self._left -= cost
        return True
