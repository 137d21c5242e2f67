"""Loads a model in a process of its own first: what crashes, hangs or eats memory there does not do so in the server.

Graphs and tokenizers are read by native libraries, whose bugs end the process, and a graph may compute for ever or need
any amount of memory as soon as it is loaded. `python -m` this module is that process: it takes a `Subject` on stdin,
tells on stdout why it refuses it, and ends with 0 if nothing is wrong.
"""

import asyncio
import dataclasses
import math
import os
import pickle
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from hiddenstate_server.config import GIB, EngineSettings
from hiddenstate_server.errors import BundleError, ConfigError
from hiddenstate_server.repository.files import ONNX_FILE, VersionFiles

# -P: no module in the folder where the server was started may stand in for one of ours.
_COMMAND: Final = (sys.executable, "-P", "-m", "hiddenstate_server.repository.quarantine")
_REFUSED: Final = 3
_GRACE_S: Final = 5.0  # the process ends itself; after this it is killed
# What a process maps beside the model, and the copies of its weights while it is loaded.
_BASE_BYTES: Final = 2 * GIB
_COPIES: Final = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the process is to load."""

    settings: EngineSettings
    files: VersionFiles
    folder: Path

    @property
    def memory_limit(self) -> int | None:
        """Bytes that the process may map. Of a bundle it is not known: its tables may be far larger than its files."""
        if not self.files.has(ONNX_FILE) or not self.settings.max_tensor_memory:
            return None
        return _BASE_BYTES + _COPIES * self.files.size + self.settings.max_tensor_memory


def check(files: VersionFiles, folder: Path, settings: EngineSettings) -> None:
    """Loads and runs a model in a process of its own, on the CPU. Blocks until it ends.

    Raises:
        BundleError: the model is refused, or the process did not end as it should.
        OSError: there can be no process now.
    """
    alone = dataclasses.replace(
        settings, provider="cpu", cores=1, threads=1, runners=1, autotune=False, cache_bytes=0, state_key_file=None
    )
    subject = Subject(settings=alone, files=files, folder=folder)
    timeout_s = settings.trial_timeout_s
    try:
        ended = subprocess.run(
            _COMMAND, input=pickle.dumps(subject), capture_output=True, timeout=timeout_s + _GRACE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BundleError(_too_slow(folder, timeout_s)) from None
    if ended.returncode == _REFUSED:
        raise BundleError(ended.stdout.decode(errors="replace"))
    if ended.returncode == -signal.SIGALRM:
        raise BundleError(_too_slow(folder, timeout_s))
    if ended.returncode:
        raise BundleError(f"{folder}: {_in_words(ended.returncode)} the process that tries it; it is not loaded")


def _too_slow(folder: Path, timeout_s: float) -> str:
    return f"{folder}: is not loaded after {timeout_s:g} s in a process of its own (--trial-timeout-s)"


def _in_words(code: int) -> str:
    if code > 0:
        return f"ends with exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return "takes the memory of" if name == "SIGKILL" else f"crashes with {name}"
    return f"crashes with signal {-code}"


def main() -> None:
    """Loads the subject and ends; by SIGALRM if that takes too long, whoever started it be there or not."""
    subject: Subject = pickle.load(sys.stdin.buffer)
    signal.setitimer(signal.ITIMER_REAL, max(subject.settings.trial_timeout_s, math.ulp(1.0)))
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    _be_modest(subject.memory_limit)
    try:
        _load(subject)
    except (BundleError, ConfigError) as error:
        os.write(answers, str(error).encode())
        os._exit(_REFUSED)
    except MemoryError:
        os.write(answers, f"{subject.folder}: needs more memory to be loaded than it may have".encode())
        os._exit(_REFUSED)
    os._exit(0)  # no thread of the model's is waited for


def _load(subject: Subject) -> None:
    from hiddenstate_server.metrics import Metrics  # late: the clock runs by now
    from hiddenstate_server.repository.loader import Loader

    Loader(subject.settings, Metrics(), asyncio.new_event_loop()).load(subject.files, subject.folder)


def _be_modest(memory_limit: int | None) -> None:
    """Has the system refuse memory beyond a limit, and end this process before others where it runs short."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit is not None:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_limit if most == resource.RLIM_INFINITY else min(memory_limit, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    main()
