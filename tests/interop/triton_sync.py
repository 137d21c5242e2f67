"""Every call of tritonclient's blocking gRPC client. Run by `with_tritonclient.py`, in tritonclient's environment."""

import queue
import sys
from functools import partial

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

NUMBERS = (
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)


def tensor(name, values):
    datatype = np_to_triton_dtype(values.dtype)
    given = triton.InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values)
    return given


def refused(call, status, part):
    try:
        call()
    except InferenceServerException as error:
        found = (error.status(), error.message())
    else:
        raise AssertionError(f"{part!r} was not refused")
    assert found[0] == f"StatusCode.{status}", found
    assert part in found[1], found


client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready("scale", "1")
assert not client.is_model_ready("nobody")
server = client.get_server_metadata()
assert server.name == "hiddenstate", server
assert "sequence" in server.extensions, server
metadata = client.get_model_metadata("scale", as_json=True)
assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}], metadata
config = client.get_model_config("sum").config
assert config.HasField("sequence_batching"), config
assert config.input[0].name == "x", config
print("  tritonclient: liveness, readiness, metadata and configuration")

x = np.arange(12, dtype=np.float32).reshape(3, 4)
answer = client.infer(
    "scale",
    [tensor("x", x)],
    outputs=[triton.InferRequestedOutput("y")],
    request_id="1",
    priority=1,
    timeout=10_000_000,
    parameters={"mine": "x"},
    compression_algorithm="gzip",
)
np.testing.assert_array_equal(answer.as_numpy("y"), 2 * x)
assert answer.get_response().id == "1"
classes = client.infer("scale", [tensor("x", x)], outputs=[triton.InferRequestedOutput("y", class_count=2)])
assert classes.as_numpy("y").tolist()[0] == [b"6.000000:3", b"4.000000:2"], classes.as_numpy("y")

values = {np_to_triton_dtype(np.dtype(name)): np.array([[0, 1, 1]]).astype(name) for name in NUMBERS}
values["BYTES"] = np.array([["one", "zwei", "trois"]], dtype=object)
answer = client.infer("echo", [tensor(name, array) for name, array in values.items()])
for name, array in values.items():
    echoed = answer.as_numpy(f"out_{name}")
    wanted = np.char.encode(array.astype(str)) if name == "BYTES" else array
    assert echoed.tolist() == wanted.tolist(), (name, echoed)
print(f"  tritonclient: {len(values)} datatypes there and back, an output chosen, classification, gzip")

words = client.infer("tiny-lm", [tensor("text", np.array(["I would like to"], dtype=object))]).as_numpy("words")
vectors = client.infer("tiny-encoder", [tensor("sentences", np.array(["I", "the car"], dtype=object))])
assert words.shape == (1, 5), words
assert vectors.as_numpy("embeddings").shape == (2, 12)
print(f"  tritonclient: next words {[word.decode() for word in words[0]]}, embeddings (2, 12)")

for id in (7, "seven"):
    totals = []
    for value, where in ((1, {"sequence_start": True}), (2, {}), (3, {"sequence_end": True})):
        one = tensor("x", np.array([[value]], np.float32))
        totals.append(client.infer("sum", [one], sequence_id=id, **where).as_numpy("total").item())
    assert totals == [1, 3, 6], totals
    refused(partial(client.infer, "sum", [one], sequence_id=id), "FAILED_PRECONDITION", "has ended")
print("  tritonclient: sequences with a number and with a text as id")

later = queue.Queue()
client.async_infer("scale", [tensor("x", x)], lambda result, error: later.put((result, error)))
result, error = later.get(timeout=30)
assert error is None
np.testing.assert_array_equal(result.as_numpy("y"), 2 * x)

(statistics,) = client.get_inference_statistics("scale").model_stats
assert statistics.inference_count == 9, statistics
assert statistics.inference_stats.success.count == 3, statistics
refused(lambda: client.infer("nobody", [tensor("x", x)]), "NOT_FOUND", "nobody")
refused(lambda: client.infer("scale", [tensor("x", x[:, :3])]), "INVALID_ARGUMENT", "has shape [3, 3]")
refused(lambda: client.infer("scale", [tensor("x", x.astype(np.float64))]), "INVALID_ARGUMENT", "due is FP32")
refused(lambda: client.get_trace_settings(), "UNIMPLEMENTED", "TraceSetting")
refused(lambda: client.get_log_settings(), "UNIMPLEMENTED", "LogSettings")
refused(lambda: client.get_system_shared_memory_status(), "UNIMPLEMENTED", "no shared memory")
refused(lambda: client.get_cuda_shared_memory_status(), "UNIMPLEMENTED", "no shared memory")
refused(lambda: client.load_model("scale", config="{}"), "UNIMPLEMENTED", "'config' is set")
print("  tritonclient: statistics, refusals")

ready = [(each.name, each.state) for each in client.get_model_repository_index().models]
assert ("scale", "READY") in ready, ready
client.unload_model("scale")
refused(lambda: client.infer("scale", [tensor("x", x)]), "NOT_FOUND", "scale")
client.load_model("scale")
np.testing.assert_array_equal(client.infer("scale", [tensor("x", x)]).as_numpy("y"), 2 * x)
print("  tritonclient: repository index, unload, load")
