"""Says what is wrong with sentences as who gave them counts: the server sees those of one call only."""

import re

from hiddenstate.errors import InvalidRequestError

_PLACE = re.compile(r"sentences\[(?P<index>\d+)\](?P<reason>.*)", re.DOTALL)
_TOO_MANY = re.compile(r"sentences: has (?P<count>[\d,]+), one call may have (?P<most>[\d,]+)")


def among_all(error: InvalidRequestError, first: int) -> InvalidRequestError:
    """Returns the error of a call for its caller.

    Args:
        error: What the server refused.
        first: The place of the call's first sentence among all.
    """
    message = str(error)
    if found := place(error):
        index, reason = found
        message = f"sentences[{first + index}]{reason}"
    elif many := _TOO_MANY.match(message):
        message = (
            f"batch_size: let {many['count']} sentences go in one call, which may have {many['most']} "
            "(the server's --max-sentences); lower it"
        )
    return InvalidRequestError(message)


def place(error: InvalidRequestError) -> tuple[int, str] | None:
    """Returns which sentence an error names, counted from 0, and the rest of its message; None where it names none."""
    found = _PLACE.match(str(error))
    return found and (int(found["index"]), found["reason"])
