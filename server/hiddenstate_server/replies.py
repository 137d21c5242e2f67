"""Replies of one stream that are ready, gathered into messages until they are written."""

from collections import deque
from collections.abc import Callable
from typing import Any

# A message of replies is cut off at this size; clients of gRPC take 4 MiB unless they are told otherwise.
_MESSAGE_BYTES = 2**20


class Outgoing:
    """A message of replies."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.size = 0  # bytes, about
        self.weight = 0  # of the requests that it answers


class Replies:
    """Owns the messages that wait to be written."""

    def __init__(self, new_message: Callable[[], Any]) -> None:
        self._new_message = new_message
        self._waiting: deque[Outgoing] = deque()

    def add(self, request_id: int, weight: int, fill: Callable[[Any], int]) -> None:
        """Adds a reply and has it filled in; `fill` returns about how many bytes it wrote."""
        if not self._waiting or self._waiting[-1].size >= _MESSAGE_BYTES:
            self._waiting.append(Outgoing(self._new_message()))
        outgoing = self._waiting[-1]
        reply = outgoing.message.responses.add(request_id=request_id)
        try:
            outgoing.size += fill(reply)
        except Exception:
            del outgoing.message.responses[-1]  # another reply, saying so, shall stand in its place
            raise
        outgoing.weight += weight

    def take(self) -> Outgoing | None:
        """Removes and returns the oldest message, if there is one."""
        return self._waiting.popleft() if self._waiting else None
