"""Has other processes read what `files.py` draws, and sees how they fare: an input may end one, or hang.

A model that does so is no fault as long as the server's own trial of it says so: see the server's `quarantine.py`.
"""

import json
import selectors
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import IO, Any, Final

from fuzz.files import ATTACKS, Attack
from fuzz.findings import Findings
from fuzz.messages import Drawing
from hiddenstate_server.config import MIB, EngineSettings
from hiddenstate_server.errors import BundleError
from hiddenstate_server.repository import quarantine

TIMEOUT_S: Final = 20.0  # an input that takes longer hangs
_MOST_KIB: Final = 512 * 1024  # of memory, for one tiny input
_INPUTS_OF_ONE: Final = 4000  # then another process takes its place


def drawing_of(name: str, seed: int, number: int) -> Drawing:
    """Returns what one input is drawn from."""
    return Drawing(Random(f"{name}-{seed}-{number}"), ())


def attack_files(name: str, *, count: int, seed: int) -> Findings:
    """Has so many inputs of one kind read."""
    findings = Findings(Counter(), [])
    begun = 0
    while begun < count:
        begun = _attack(name, seed, begun, min(count, begun + _INPUTS_OF_ONE), findings)
    return findings


def _attack(name: str, seed: int, first: int, last: int, findings: Findings) -> int:
    """Runs one process as far as it goes, and returns the input after that."""
    command = [sys.executable, str(Path(__file__).with_name("child.py")), name, str(seed), str(first), str(last)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout
        number, is_over = _follow(process.stdout, name, first, findings)
        process.kill() if not is_over else None
        code = process.wait()
        process.stdout.close()
        errors.seek(0)
        if number == last - 1 and is_over and not code:
            return last
        said = errors.read().decode(errors="replace")[-2000:]
    what = f"ended with {code}: {said}" if is_over else f"did not end in {TIMEOUT_S:g} s"
    _judge(name, seed, number, what, findings)
    return number + 1


def _follow(lines: IO[str], name: str, first: int, findings: Findings) -> tuple[int, bool]:
    """Counts what a process tells; returns the input that it began last, and whether it ended by itself."""
    number = first
    with selectors.DefaultSelector() as selector:
        selector.register(lines, selectors.EVENT_READ)
        while selector.select(TIMEOUT_S):
            line = lines.readline()
            if not line:
                return number, True
            if line.startswith(">"):
                number = int(line[1:])
            else:
                _count(name, number, json.loads(line[1:]), findings)
    return number, False


def _count(name: str, number: int, told: dict[str, Any], findings: Findings) -> None:
    if fault := told.get("fault"):
        findings.faults.append(f"{name} {number}: {fault}")
    else:
        findings.codes[f"{name} {told['outcome']}"] += 1
    if told["kib"] > _MOST_KIB:
        findings.faults.append(f"{name} {number}: took {told['kib'] / 1024:.0f} MiB")


def _judge(name: str, seed: int, number: int, what: str, findings: Findings) -> None:
    """Asks the server's trial about a model that ended a process; for all else that is a fault."""
    with tempfile.TemporaryDirectory() as folder:
        attack: Attack = ATTACKS[name](Path(folder))
        attack.write(drawing_of(name, seed, number))
        if attack.model is not None and _is_held_off(attack):
            findings.codes[f"{name} ends its trial"] += 1
            return
    findings.faults.append(f"{name} {number}: {what}")


def _is_held_off(attack: Attack) -> bool:
    assert attack.model is not None
    try:
        quarantine.check(*attack.model, EngineSettings(trial_timeout_s=TIMEOUT_S, max_tensor_memory=64 * MIB))
    except BundleError:
        return True
    return False
