"""Replies of one stream that are ready, gathered into messages until they are written."""

from collections import deque

# A message of replies is cut off at this size; clients of gRPC take 4 MiB unless they are told otherwise.
_MESSAGE_BYTES = 2**20


class Outgoing:
    """A message of replies."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0  # bytes
        self.weight = 0  # of the requests that it answers


class Replies:
    """Owns the messages that wait to be written."""

    def __init__(self) -> None:
        self._waiting: deque[Outgoing] = deque()

    def add(self, reply: bytes, weight: int) -> None:
        """Adds a reply, a field of the message as `wire.streamed` makes it."""
        if not self._waiting or self._waiting[-1].size >= _MESSAGE_BYTES:
            self._waiting.append(Outgoing())
        outgoing = self._waiting[-1]
        outgoing.parts.append(reply)
        outgoing.size += len(reply)
        outgoing.weight += weight

    def take(self) -> tuple[bytes, int] | None:
        """Removes and returns the oldest message and the weight of the requests that it answers, if there is one."""
        if not self._waiting:
            return None
        outgoing = self._waiting.popleft()
        return b"".join(outgoing.parts), outgoing.weight
