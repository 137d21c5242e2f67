"""Attacks the reading of files in a process that may end: `python child.py ATTACK SEED FIRST LAST`.

Prints a line for each input when it begins, `> NUMBER`, and one when it is over, `< {...}`.
"""

import json
import logging
import os
import resource
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.children import drawing_of
from fuzz.files import ATTACKS, Attack
from hiddenstate_server.config import GIB

_MOST_BYTES = 8 * GIB  # mapped; beyond it the system says no


def main() -> None:
    """Reads all inputs, unless one ends the process."""
    name, seed, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        attack = ATTACKS[name](Path(folder))
        for number in range(first, last):
            print(f"> {number}", file=answers)
            print("<", json.dumps(_told(attack, name, seed, number)), file=answers)


def _told(attack: Attack, name: str, seed: int, number: int) -> dict[str, object]:
    drawing = drawing_of(name, seed, number)
    attack.write(drawing)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told: dict[str, object] = {}
    try:
        told["outcome"] = attack.read(drawing.random)
    except BaseException as error:  # panics of native code too
        told["fault"] = "".join(traceback.format_exception(error))
    told["kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return told


if __name__ == "__main__":
    main()
