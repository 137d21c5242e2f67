"""States on the wire: any replica with the key takes them, nobody else can make them."""

from pathlib import Path

import grpc
import pytest

from hiddenstate.v1.language_model_pb2 import PredictRequest
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.security.state_keys import read_state_keys
from hiddenstate_server.state_token import State, pack_state, unpack_state
from serving import failure, serving, until


def write_keys(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    path.chmod(0o600)
    return path


async def test_replicas_that_share_a_key_take_each_others_states(models_dir: Path, tmp_path: Path) -> None:
    old, new = "ab" * 32, "CD" * 32
    first = write_keys(tmp_path / "first", old)
    second = write_keys(tmp_path / "second", new, old)  # while the key is being changed
    async with serving(models_dir, state_key_file=first) as one, serving(models_dir, state_key_file=second) as other:
        whole = await one.language_model.Predict(PredictRequest(text="I would like"))
        begun = await one.language_model.Predict(PredictRequest(text="I would", return_state=True))
        ended = await other.language_model.Predict(PredictRequest(text="like", state=begun.state, return_state=True))
        assert [each.word for each in ended.candidates] == [each.word for each in whole.candidates]
        error = await failure(one.language_model.Predict(PredictRequest(text="to", state=ended.state)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # it does not have the new key yet
        assert "not of this server" in (error.details() or "")


async def test_a_key_is_changed_without_a_restart(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hiddenstate_server.security.files._LOOK_S", 0.01)
    old, new, path = "ab" * 32, "cd" * 32, tmp_path / "keys"
    async with serving(models_dir, state_key_file=write_keys(path, old)) as wire:
        keys = wire.server.repository.state_keys
        assert keys is not None

        async def state_of(text: str, before: bytes = b"") -> bytes:
            request = PredictRequest(text=text, state=before, return_state=True)
            return (await wire.language_model.Predict(request)).state

        begun = await state_of("I would")
        write_keys(path, new, old)
        await until(lambda: keys.value[0] == bytes.fromhex(new))
        sealed_anew = await state_of("like", begun)  # the old key is still known
        write_keys(path, new, "no key")
        await until(lambda: "what was read before stays in force" in caplog.text)
        assert await state_of("to", sealed_anew)
        write_keys(path, new)
        await until(lambda: keys.value == (bytes.fromhex(new),))
        assert await state_of("to", sealed_anew)
        error = await failure(wire.language_model.Predict(PredictRequest(text="like", state=begun)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_forged_state_is_refused(models_dir: Path, tmp_path: Path) -> None:
    async with serving(models_dir, state_key_file=write_keys(tmp_path / "key", "ab" * 32)) as wire:
        model = wire.server.repository.language_model()
        true = (await wire.language_model.Predict(PredictRequest(text="I", return_state=True))).state
        size = model.bundle.language_model.state_size if model.bundle.language_model else 0
        data = unpack_state(true, model.bundle.fingerprint, size, (b"\xab" * 32,)).data
        for keys in ((), (b"\xac" * 32,)):
            forged = pack_state(State(data, 2), model.bundle.fingerprint, keys)
            error = await failure(wire.language_model.Predict(PredictRequest(text="to", state=forged)))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "holds no key; make one: openssl rand"),
        (("ab" * 32, "secret"), "line 2 is no key of 64 hexadecimal digits"),
        (("ab" * 31,), "line 1 is no key"),
    ],
)
def test_a_file_without_proper_keys_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = write_keys(tmp_path / "keys", *lines)
    with pytest.raises(ConfigError, match=f"--state-key-file {path}: {message}"):
        read_state_keys(path)


def test_a_file_that_others_may_read_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys", "ab" * 32)
    path.chmod(0o604)
    with pytest.raises(ConfigError, match=r"--state-key-file .*: its mode is 0604"):
        read_state_keys(path)
    with pytest.raises(ConfigError, match=r"--state-key-file .*: cannot be read: No such file"):
        read_state_keys(tmp_path / "none")
