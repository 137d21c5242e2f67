"""Classes that files are read as are ready for any thread: the first look at one is no race."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

_READ = """
import sys, threading
import msgspec
from hiddenstate_server.bundle import Bundle
from hiddenstate_server.inference.onnx_config import OnnxConfig
from hiddenstate_server.repository.policy import Policy

_FILES = {
    Bundle: b'{"schema_version": 1, "name": "a", "version": "1", "files": {}}',
    OnnxConfig: b'{"batching": "on", "inputs": {}, "state": [], "sequences": {}}',
    Policy: b'{"versions": {"latest": 1}, "default": "a", "labels": {}}',
}
sys.setswitchinterval(1e-6)
together = threading.Barrier(2)

def read():
    for kind, data in _FILES.items():
        together.wait()
        try:
            msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            pass

threads = [threading.Thread(target=read) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_several_threads_may_be_the_first_to_read_a_file() -> None:
    def exit_code(_: int) -> int:
        return subprocess.run([sys.executable, "-c", _READ], check=False).returncode

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(exit_code, range(20))) == {0}
