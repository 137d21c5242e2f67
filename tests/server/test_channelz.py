"""gRPC's own view of its connections, which only those get who turn it on."""

from pathlib import Path

import grpc
import pytest
from grpc_channelz.v1.channelz_pb2 import GetServersRequest
from grpc_channelz.v1.channelz_pb2_grpc import ChannelzStub

from bundles import language_model_bundle
from hiddenstate.v1.language_model_pb2 import PredictRequest
from serving import failure, serving


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    language_model_bundle(models)
    return models


async def test_channelz_counts_the_calls_of_the_server(models_dir: Path) -> None:
    async with serving(models_dir, channelz="on") as wire:
        for _ in range(3):
            await wire.language_model.Predict(PredictRequest(text="The"))
        answer = await ChannelzStub(wire.channel).GetServers(GetServersRequest())
    assert 3 in {server.data.calls_succeeded for server in answer.server}


async def test_channelz_is_off_where_nobody_turned_it_on(models_dir: Path) -> None:
    async with serving(models_dir) as wire:
        error = await failure(ChannelzStub(wire.channel).GetServers(GetServersRequest()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
