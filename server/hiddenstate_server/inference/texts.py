"""Text in tensors: BYTES, which have to be UTF-8."""

from typing import Any

from numpy.typing import NDArray

from hiddenstate_server.errors import InvalidRequestError


def read_texts(tensor: NDArray[Any], name: str) -> list[str]:
    """Returns the elements of a BYTES tensor, [rows], as texts.

    Raises:
        InvalidRequestError: one is not UTF-8.
    """
    return [_text(element, name, position) for position, element in enumerate(tensor.tolist())]


def _text(element: bytes, name: str, position: int) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"input {name!r}: element {position} is not UTF-8: {error}") from None
