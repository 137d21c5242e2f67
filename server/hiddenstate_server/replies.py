"""Replies of one stream that are ready, gathered into messages until they are written."""

from collections import deque

# A message of replies is cut off at this size; clients of gRPC take 4 MiB unless they are told otherwise.
_MESSAGE_BYTES = 2**20


class Outgoing:
    """A message of replies."""

    __slots__ = ("parts", "size", "weight")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0  # bytes
        self.weight = 0  # of the requests that it answers


class Replies:
    """Owns the messages that wait to be written."""

    __slots__ = ("_last", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Outgoing] = deque()
        self._last: Outgoing | None = None  # of those that wait

    def add(self, reply: bytes, weight: int) -> None:
        """Adds a reply, a field of the message as `wire.streamed` makes it."""
        outgoing = self._last
        if outgoing is None or outgoing.size >= _MESSAGE_BYTES:
            outgoing = self._last = Outgoing()
            self._waiting.append(outgoing)
        outgoing.parts.append(reply)
        outgoing.size += len(reply)
        outgoing.weight += weight

    def take(self) -> tuple[bytes, int] | None:
        """Removes and returns the oldest message and the weight of the requests that it answers, if there is one."""
        if not self._waiting:
            return None
        outgoing = self._waiting.popleft()
        if outgoing is self._last:
            self._last = None
        return b"".join(outgoing.parts), outgoing.weight
