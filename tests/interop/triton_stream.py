"""tritonclient's gRPC streams. Run by `with_tritonclient.py`, in tritonclient's environment."""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton

IDS = [1, 2, "three", "four"]
TURNS = 10


def number(value):
    given = triton.InferInput("x", [1, 1], "FP32")
    given.set_data_from_numpy(np.array([[value]], np.float32))
    return [given]


replies = queue.Queue()
with triton.InferenceServerClient(sys.argv[1]) as client:
    client.start_stream(callback=lambda result, error: replies.put((result, error)))
    for turn in range(TURNS):
        for value, id in enumerate(IDS, start=1):
            client.async_stream_infer(
                "sum",
                number(value),
                request_id=f"{id}/{turn}",
                sequence_id=id,
                sequence_start=turn == 0,
                sequence_end=turn == TURNS - 1,
                enable_empty_final_response=True,
            )
    for turn in range(TURNS):
        for value, id in enumerate(IDS, start=1):
            result, error = replies.get(timeout=30)
            assert error is None, error
            response = result.get_response()
            assert response.id == f"{id}/{turn}", response.id
            assert response.parameters["triton_final_response"].bool_param
            assert result.as_numpy("total").item() == value * (turn + 1)
    client.async_stream_infer("sum", number(1), request_id="stray", sequence_id=99)
    result, error = replies.get(timeout=30)
    assert result is None
    assert "sequence 99 is not known here" in error.message(), error
    client.async_stream_infer("sum", number(5), request_id="after", sequence_id=99, sequence_start=True)
    result, error = replies.get(timeout=30)
    assert error is None, error
    assert result.as_numpy("total").item() == 5
    client.stop_stream()
print(f"  tritonclient stream: {TURNS * len(IDS)} replies in order, 4 sequences on one stream; it outlives an error")
