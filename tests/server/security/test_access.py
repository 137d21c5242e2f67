"""API keys on the wire: who may call what, and what happens when a key is revoked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from click.testing import CliRunner
from grpc_channelz.v1.channelz_pb2 import GetServersRequest
from grpc_channelz.v1.channelz_pb2_grpc import ChannelzStub
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from hiddenstate import AsyncClient, Client, PermissionDeniedError, UnauthenticatedError
from hiddenstate.cli import main
from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    PredictRequest,
    PredictStreamRequest,
    ScoreRequest,
    StreamedPredictRequest,
)
from hiddenstate.v1.model_pb2 import ListModelsRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from hiddenstate_server.inference.open_inference_pb2 import (
    ModelInferRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
    ServerMetadataRequest,
)
from hiddenstate_server.security.keys import make_key
from serving import WAIT_S, Wire, failure, held, serving, until

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


async def test_a_file_without_keys_is_warned_of(
    models_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    async with serving(models_dir, keys_file=path) as wire:
        assert (await failure(wire.models.ListModels(ListModelsRequest()))).code() is UNAUTHENTICATED
    assert f"--keys-file {path}: holds no key, so that nobody may call until it does" in caplog.text


class KeyFile:
    """A file with a key for each scope, and the keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}
        lines = []
        for scope in ("predict", "encode", "manage"):
            self.secrets[scope], key = make_key(scope, frozenset({scope}))
            lines.append(f"{key}\n")
        path.write_text("".join(lines), encoding="ascii")
        path.chmod(0o600)

    def revoke(self, name: str) -> None:
        lines = self.path.read_text(encoding="ascii").splitlines(keepends=True)
        self.path.write_text("".join(line for line in lines if not line.startswith(name)), encoding="ascii")

    def header(self, name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.secrets[name]}"),)


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys")


@pytest_asyncio.fixture
async def guarded(models_dir: Path, key_file: KeyFile) -> AsyncIterator[Wire]:
    async with serving(models_dir, keys_file=key_file.path) as wire:
        yield wire


def calls(wire: Wire, metadata: Any) -> dict[str, list[Any]]:
    """Returns calls of every service by the scope that they need."""
    more: dict[str, Any] = {"metadata": metadata, "timeout": WAIT_S}
    lm, oip = wire.language_model, wire.inference
    infer = [ModelInferRequest(model_name=name) for name in ("tiny-lm", "tiny-encoder")]
    return {
        "predict": [
            lm.Predict(PredictRequest(text="I"), **more),
            lm.Score(ScoreRequest(text="I would"), **more),
            lm.Generate(GenerateRequest(text="I", max_tokens=1), **more),
            lm.PredictStream(**more),
            oip.ModelInfer(infer[0], **more),
        ],
        "encode": [
            wire.sentence_encoder.Encode(EncodeRequest(sentences=["The"]), **more),
            wire.sentence_encoder.EncodeStream(**more),
            oip.ModelInfer(infer[1], **more),
        ],
        "manage": [
            oip.RepositoryModelLoad(RepositoryModelLoadRequest(model_name="tiny-lm"), **more),
            oip.RepositoryModelUnload(RepositoryModelUnloadRequest(model_name="nobody"), **more),
        ],
        "any": [
            wire.models.ListModels(ListModelsRequest(), **more),
            oip.ServerMetadata(ServerMetadataRequest(), **more),
            oip.RepositoryIndex(RepositoryIndexRequest(), **more),
        ],
    }


async def code_of(call: Any) -> grpc.StatusCode:
    """Returns how a call ends; one that streams is ended first."""
    if hasattr(call, "done_writing"):
        with suppress(Exception):  # gRPC's own, where the call has been refused already
            await call.done_writing()
    if hasattr(call, "__aiter__"):  # it ends when all that it answers has been read
        with suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
    code: grpc.StatusCode = await call.code()
    return code


async def test_no_call_is_made_without_a_key(guarded: Wire) -> None:
    for metadata in ((), (("authorization", "Bearer hs_predict.guess"),), (("authorization", "Basic abc"),)):
        for call in (each for group in calls(guarded, metadata).values() for each in group):
            assert await code_of(call) is UNAUTHENTICATED


async def test_who_has_no_key_is_told_so_also_where_there_is_no_room(models_dir: Path, key_file: KeyFile) -> None:
    async with serving(models_dir, runners=1, keys_file=key_file.path, max_concurrent_calls=1) as wire:
        with held(wire.server.repository.language_model()) as gate:
            metadata = key_file.header("predict")
            running = wire.language_model.Predict(PredictRequest(text="I"), metadata=metadata)
            await gate.reached()
            one_more = wire.language_model.Predict(PredictRequest(text="I"), metadata=metadata)
            assert await code_of(one_more) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await code_of(wire.language_model.Predict(PredictRequest(text="I"))) is UNAUTHENTICATED
        assert (await running).candidates


@pytest.mark.parametrize("scope", ["predict", "encode", "manage"])
async def test_a_key_is_good_for_the_calls_of_its_scope_alone(guarded: Wire, key_file: KeyFile, scope: str) -> None:
    refusals = (UNAUTHENTICATED, PERMISSION_DENIED)
    for group, made in calls(guarded, key_file.header(scope)).items():
        codes = [await code_of(call) for call in made]
        if group in (scope, "any"):
            assert not {*codes} & {*refusals}, (group, codes)
        else:
            assert {*codes} == {PERMISSION_DENIED}, (group, codes)


async def test_refusals_say_what_to_do_and_nothing_of_the_keys(guarded: Wire, key_file: KeyFile) -> None:
    error = await failure(guarded.language_model.Predict(PredictRequest(text="I")))
    assert "authorization: is missing; this server asks for an API key" in (error.details() or "")
    told = set()
    for name in ("nobody", "predict"):
        metadata = (("authorization", f"Bearer hs_{name}.abc"),)
        error = await failure(guarded.language_model.Predict(PredictRequest(text="I"), metadata=metadata))
        told.add(error.details())
    assert told == {"authorization: this API key is not known here; it may have been revoked"}
    error = await failure(guarded.language_model.Predict(PredictRequest(text="I"), metadata=key_file.header("encode")))
    assert error.details() == "Predict needs the scope predict, and this API key (encode) has encode"


async def test_health_needs_no_key(guarded: Wire) -> None:
    stub: Any = HealthStub(guarded.channel)
    assert (await stub.Check(HealthCheckRequest())).status == 1


async def test_channelz_tells_the_addresses_of_callers_to_those_alone_who_manage(
    models_dir: Path, key_file: KeyFile
) -> None:
    async with serving(models_dir, keys_file=key_file.path, channelz="on") as wire:
        stub: Any = ChannelzStub(wire.channel)
        codes = [
            await code_of(stub.GetServers(GetServersRequest(), metadata=metadata))
            for metadata in ((), key_file.header("predict"), key_file.header("manage"))
        ]
    assert codes == [UNAUTHENTICATED, PERMISSION_DENIED, grpc.StatusCode.OK]


async def test_reflection_can_be_turned_off(models_dir: Path) -> None:
    async with serving(models_dir, reflection="off") as wire:
        call: Any = wire.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
        assert (await failure(call)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_tensor_stream_tells_each_request_what_the_key_is_not_good_for(
    guarded: Wire, key_file: KeyFile
) -> None:
    call: Any = guarded.inference.ModelStreamInfer(metadata=key_file.header("predict"))
    await call.write(ModelInferRequest(model_name="tiny-encoder"))
    assert (await call.read()).error_message.startswith("the model tiny-encoder needs the scope encode")
    await call.done_writing()


async def test_a_revoked_key_ends_its_streams_and_no_others(guarded: Wire, key_file: KeyFile) -> None:
    access = guarded.server._access
    assert access
    streams: Any = [
        guarded.language_model.PredictStream(metadata=key_file.header("predict")),
        guarded.sentence_encoder.EncodeStream(metadata=key_file.header("encode")),
    ]
    requests = [StreamedPredictRequest(request_id=1, predict=PredictRequest(text="The"))]
    await streams[0].write(PredictStreamRequest(requests=requests))
    assert (await streams[0].read()).responses[0].response.candidates
    await until(lambda: len(access._callers) == 2)
    key_file.revoke("predict")
    error = await failure(streams[0].read())
    assert error.code() is UNAUTHENTICATED
    assert error.details() == "the API key of this stream was revoked or changed"
    assert not streams[1].done()
    call = guarded.language_model.Predict(PredictRequest(text="I"), metadata=key_file.header("predict"))
    assert await code_of(call) is UNAUTHENTICATED
    assert guarded.metric("hiddenstate_streams_total", method="PredictStream", code="UNAUTHENTICATED") == 1
    await streams[1].done_writing()
    assert await streams[1].code() is grpc.StatusCode.OK


async def test_a_file_that_is_damaged_changes_nothing(guarded: Wire, key_file: KeyFile) -> None:
    access = guarded.server._access
    assert access
    assert access.keys
    key_file.path.write_text("nonsense\n", encoding="ascii")
    assert not access.keys.refresh()
    call = guarded.language_model.Predict(PredictRequest(text="I"), metadata=key_file.header("predict"))
    assert await code_of(call) is grpc.StatusCode.OK


async def test_both_clients_show_their_key(guarded: Wire, key_file: KeyFile) -> None:
    address, secret = str(guarded.server.address), key_file.secrets["predict"]
    async with AsyncClient(address, api_key=secret, timeout_s=WAIT_S) as client:
        assert len((await client.predict("I would")).candidates) == 5
        with pytest.raises(PermissionDeniedError):
            await client.encode(["The"])
        async with client.open_stream() as stream:
            assert len((await stream.context().predict("I")).candidates) == 5

    def blocking() -> None:
        with Client(address, api_key=secret, timeout_s=WAIT_S) as client:
            assert len(client.predict("I would").candidates) == 5
            assert client.generate("I", max_tokens=1).text()
            assert client.score("I would").tokens
            with pytest.raises(PermissionDeniedError):
                client.encode(["The"])
        with Client(address, timeout_s=WAIT_S) as client, pytest.raises(UnauthenticatedError, match="api_key="):
            client.predict("I would")

    await asyncio.to_thread(blocking)


async def test_the_command_shows_its_key(guarded: Wire, key_file: KeyFile) -> None:
    arguments = ["predict", "I would", "--server", str(guarded.server.address)]
    environment = {"HIDDENSTATE_API_KEY": key_file.secrets["predict"]}
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)
    assert result.exit_code == 0, result.output
    result = await asyncio.to_thread(CliRunner().invoke, main, [*arguments, "--api-key", "hs_predict.x"])
    assert result.exit_code == 1
    assert "this API key is not known here" in result.output


@pytest.mark.parametrize("key", ["", " a", "a\n", "clé"])
def test_what_cannot_be_a_key_is_refused_by_the_client(key: str) -> None:
    with pytest.raises(ValueError, match="api_key"):
        Client("127.0.0.1:1", api_key=key)
