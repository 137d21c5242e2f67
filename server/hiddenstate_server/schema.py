"""What files must hold, made ready where it is declared.

msgspec looks closely at a class when it reads one for the first time. Where two threads did so at once, as those that
load models do, msgspec 0.22 was seen to end the process with a segmentation fault.
"""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def schema(kind: type[T]) -> type[T]:
    """Decorates a class that files are read as: any thread may read one from then on."""
    msgspec.json.Decoder(kind)
    return kind
