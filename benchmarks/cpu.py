"""Processor time of processes, thread by thread, as the kernel counts it: what explains a rate when cores are few."""

import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

MAIN = "main"  # the process's first thread: with asyncio the event loop
WORKER = "worker process"
_PYTHON_NAME = re.compile(r"Thread-\d+ \((\w+)\)")  # of a thread that was given none
_COMM_LENGTH = 15

Times = Mapping[tuple[int, int], tuple[str, float]]  # by process and thread: its name and its seconds


def name_threads() -> None:
    """Lets the kernel know the names of the threads that Python starts from now on (Python 3.14 does so by itself).

    Threads of libraries have the name that they gave themselves, or that of the thread which started them.
    """
    start = threading.Thread.start

    def start_named(thread: threading.Thread) -> None:
        start(thread)
        _name(thread)

    threading.Thread.start = start_named  # type: ignore[assignment, method-assign]


def thread_times(pid: int) -> Times:
    """Returns the times of all threads of a process and of those that it started."""
    times: dict[tuple[int, int], tuple[str, float]] = {}
    for each in _family(pid):
        for task in Path(f"/proc/{each}/task").glob("*"):
            try:
                nanoseconds = int((task / "schedstat").read_text(encoding="ascii").split()[0])
                comm = (task / "comm").read_text(encoding="utf-8", errors="replace").strip()
            except OSError:  # it has ended
                continue
            tid = int(task.name)
            times[each, tid] = (comm if tid != each else MAIN if each == pid else WORKER, nanoseconds / 1e9)
    return times


def used(before: Times, after: Times) -> dict[str, float]:
    """Returns the seconds that threads used between two moments, by name; those of one name are joined."""
    seconds: dict[str, float] = {}
    for key, (name, now) in after.items():
        seconds[name] = seconds.get(name, 0.0) + now - before.get(key, (name, 0.0))[1]
    return seconds


def _name(thread: threading.Thread) -> None:
    default = _PYTHON_NAME.fullmatch(thread.name)
    name = default[1].strip("_") if default else thread.name
    try:
        Path(f"/proc/self/task/{thread.native_id}/comm").write_text(name[:_COMM_LENGTH], encoding="utf-8")
    except OSError:  # it has ended, or this is not Linux
        return


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text(encoding="ascii").split()
        except OSError:
            continue
        for child in children:
            yield from _family(int(child))
