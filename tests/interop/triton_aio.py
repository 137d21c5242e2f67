"""tritonclient's asyncio gRPC client. Run by `with_tritonclient.py`, in tritonclient's environment."""

import asyncio
import sys

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.grpc import InferInput


def number(value):
    given = InferInput("x", [1, 1], "FP32")
    given.set_data_from_numpy(np.array([[value]], np.float32))
    return [given]


async def sequence(client, id):
    totals = []
    for turn in range(4):
        answer = await client.infer("sum", number(id), sequence_id=id, sequence_start=turn == 0, sequence_end=turn == 3)
        totals.append(answer.as_numpy("total").item())
    return totals


async def main():
    async with triton.InferenceServerClient(sys.argv[1]) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("sum")
        assert (await client.get_model_metadata("sum")).platform == "onnxruntime_onnx"
        totals = await asyncio.gather(*(sequence(client, id) for id in range(1, 33)))
        assert totals == [[id, 2 * id, 3 * id, 4 * id] for id in range(1, 33)], totals
        print("  tritonclient aio: 32 sequences side by side, each with its own state")

        async def requests():
            for value, where in ((1, {"sequence_start": True}), (2, {}), (3, {"sequence_end": True})):
                yield {"model_name": "sum", "inputs": number(value), "sequence_id": "s", **where}

        streamed = []
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            streamed.append(result.as_numpy("total").item())
        assert streamed == [1, 3, 6], streamed
        print(f"  tritonclient aio: a streamed sequence adds up to {streamed}")


asyncio.run(main())
