"""Looks for inputs by the code that they reach: `pip install atheris && python tests/fuzz/with_atheris.py TARGET`.

TARGET is one of state, policy, keys, tensor; what follows it goes to libFuzzer, for example `-runs=1000000`. Only the
server's own Python is watched. An input that raises anything but the error meant for it ends the run and is kept in a
file.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

try:
    import atheris
except ModuleNotFoundError:
    sys.exit("with_atheris.py: needs another package: pip install atheris")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["hiddenstate_server"]):
    from hiddenstate_server.errors import BundleError, ConfigError, InvalidRequestError
    from hiddenstate_server.inference.codec import check_shape, decode_raw, encode_raw
    from hiddenstate_server.inference.tensors import DTYPES
    from hiddenstate_server.repository.policy import POLICY_FILE, read_policy
    from hiddenstate_server.security.keys import read_keys
    from hiddenstate_server.state_token import State, pack_state, unpack_state

import numpy as np

_FINGERPRINT: Final = bytes(16)
_STATE_SIZE: Final = 4
_KEY: Final = b"k" * 32
_FILE: Final = Path(tempfile.mkdtemp()) / "keys.txt"


def state(data: bytes) -> None:
    """A state, as the caller has it and as one who knows the key would seal it."""
    values = np.frombuffer(data[: 4 * (len(data) // 4)], dtype="<f4").astype(np.float32)
    sealed = pack_state(State(values.tobytes(), len(data)), _FINGERPRINT, (_KEY,))
    for token in (data, b"HSS1" + data, b"HSS2" + data, sealed):
        try:
            found = unpack_state(token, _FINGERPRINT, _STATE_SIZE, (_KEY,))
        except InvalidRequestError:
            continue
        assert found.values.shape == (_STATE_SIZE,)
        assert np.isfinite(found.values).all()


def policy(data: bytes) -> None:
    """A model's policy."""
    try:
        read_policy(data, POLICY_FILE)
    except BundleError as error:
        _check_line(error)


def keys(data: bytes) -> None:
    """A file of API keys."""
    _FILE.touch(mode=0o600)
    _FILE.write_bytes(data)
    try:
        read_keys(_FILE)
    except ConfigError as error:
        _check_line(error)


def tensor(data: bytes) -> None:
    """A tensor in raw bytes, of a datatype and shape that come first."""
    drawn: Any = atheris.FuzzedDataProvider(data)
    datatype = drawn.PickValueInList(sorted(DTYPES))
    sizes = drawn.ConsumeIntListInRange(drawn.ConsumeIntInRange(0, 4), -1, 2**40)
    raw = drawn.ConsumeBytes(len(data))
    try:
        array = decode_raw(raw, datatype, check_shape(sizes, "inputs[0]"), "inputs[0]")
    except InvalidRequestError as error:
        _check_line(error)
        return
    again = encode_raw(array, datatype)
    assert datatype == "BOOL" or again == raw


_TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "state": state,
    "policy": policy,
    "keys": keys,
    "tensor": tensor,
}


def _check_line(error: Exception) -> None:
    assert "\n" not in str(error), error


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in _TARGETS:
        sys.exit(f"with_atheris.py: name one of {', '.join(_TARGETS)}")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], _TARGETS[sys.argv[1]])
    atheris.Fuzz()
