"""What an attack has found."""

from collections import Counter
from typing import NamedTuple


class Findings(NamedTuple):
    """How inputs were taken, and what should not have been."""

    codes: Counter[str]
    faults: list[str]
