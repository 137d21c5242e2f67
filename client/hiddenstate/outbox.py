"""Requests that wait to be sent over a stream, cut into messages. Pure: no connection is needed."""

from collections import deque
from typing import Protocol

from hiddenstate.errors import MessageTooLargeError

# Of one message: past either, the rest waits for the next one. Far more gains nothing, and a server can begin with the
# first message while the next is on its way.
_MOST_REQUESTS = 1024
MOST_BYTES = 2**18


class Sender(Protocol):
    """Who waits for the reply to a request."""

    def done(self) -> bool: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


class Outbox(deque[tuple[bytes, Sender | None]]):
    """Messages of one request and who waits for their replies, if anybody does. Any thread may append, one takes."""

    def __init__(self, most_bytes: int) -> None:
        """Makes an empty one.

        Args:
            most_bytes: The largest request that may be sent; one that is larger fails alone.
        """
        super().__init__()
        self._most_bytes = most_bytes
        self.cut = min(most_bytes, MOST_BYTES)  # bytes of a message of several requests

    def take(self) -> list[bytes]:
        """Removes and returns what goes into the next message, nothing if nothing is left.

        Those whose sender has left meanwhile are not sent.
        """
        while self:
            entries = [self.popleft() for _ in range(min(len(self), _MOST_REQUESTS))]
            messages = [message for message, sender in entries if sender is None or not sender.done()]
            if sum(map(len, messages)) > self.cut:
                self.extendleft(reversed(entries))
                return self._take_some()
            if messages:
                return messages
        return []

    def _take_some(self) -> list[bytes]:
        """The same where not all fit: looks at one after the other."""
        messages: list[bytes] = []
        room = self.cut
        while self:
            message, sender = self[0]
            if sender is None or not sender.done():
                size = len(message)
                if size > self._most_bytes:
                    _refuse(sender, size, self._most_bytes)
                elif size > room and messages:
                    break
                else:
                    messages.append(message)
                    room -= size
            self.popleft()
        return messages


def _refuse(sender: Sender | None, size: int, most_bytes: int) -> None:
    if sender is not None:
        sender.set_exception(
            MessageTooLargeError(
                f"a request of {size:,} bytes is over the client's limit of {most_bytes:,}; "
                "send less at once, or raise the client's max_message_bytes"
            )
        )
