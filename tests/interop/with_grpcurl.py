"""grpcurl: finds the service by reflection, and calls it with JSON."""

import base64
import json
import struct
from typing import Any

from running import check, main, output_of
from served import served
from toolbox import GRPCURL, python_tool

SERVICE = "inference.GRPCInferenceService"


def script() -> None:
    """Lists, describes and calls."""
    grpcurl = python_tool("grpcurl", GRPCURL) / "grpcurl"
    with served() as server:

        def call(method: str, message: Any, *, fails: bool = False) -> Any:
            command = (grpcurl, "-plaintext", "-d", json.dumps(message), server.address, f"{SERVICE}/{method}")
            printed = output_of(*command, fails=fails)
            return printed if fails else json.loads(printed)

        services = output_of(grpcurl, "-plaintext", server.address, "list").split()
        check("grpcurl list", SERVICE in services, True)
        described = output_of(grpcurl, "-plaintext", server.address, "describe", SERVICE)
        check("grpcurl describe", "rpc ModelStreamInfer ( stream .inference.ModelInferRequest )" in described, True)
        check("ServerLive", call("ServerLive", {}), {"live": True})
        check("ModelReady", call("ModelReady", {"name": "scale"}), {"ready": True})
        check("ModelMetadata", call("ModelMetadata", {"name": "scale"})["inputs"][0]["shape"], ["-1", "4"])

        x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32Contents": [1, 2, 3, 4]}}
        answer = call("ModelInfer", {"modelName": "scale", "id": "a", "inputs": [x]})
        check("ModelInfer, typed contents", floats(answer["raw_output_contents"][0]), (2, 4, 6, 8))
        raw = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
        contents = base64.b64encode(struct.pack("<4f", 5, 6, 7, 8)).decode()
        answer = call("ModelInfer", {"modelName": "scale", "inputs": [raw], "rawInputContents": [contents]})
        check("ModelInfer, raw contents", floats(answer["raw_output_contents"][0]), (10, 12, 14, 16))
        refused = call("ModelInfer", {"modelName": "scale", "inputs": [{**x, "datatype": "INT8"}]}, fails=True)
        check("a wrong datatype", "Code: InvalidArgument" in refused and "due is FP32" in refused, True)

        steps = [{"sequence_id": {"stringParam": "s"}, "sequence_start": {"boolParam": n == 0}} for n in range(3)]
        one = {"name": "x", "datatype": "FP32", "shape": [1, 1], "contents": {"fp32Contents": [7]}}
        messages = [{"modelName": "sum", "inputs": [one], "parameters": step} for step in steps]
        sent = "\n".join(map(json.dumps, messages))
        printed = output_of(grpcurl, "-plaintext", "-d", sent, server.address, f"{SERVICE}/ModelStreamInfer")
        check("ModelStreamInfer", [floats(raw)[0] for raw in raw_contents(printed)], [7, 14, 21])
        states = {each["name"]: each["state"] for each in call("RepositoryIndex", {})["models"]}
        check("RepositoryIndex", states["scale"], "READY")


def floats(text: str) -> tuple[float, ...]:
    """Returns the numbers of a tensor, which JSON has in base64."""
    raw = base64.b64decode(text)
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def raw_contents(printed: str) -> list[str]:
    """Returns the first output of each reply of a stream."""
    decoder, replies, position = json.JSONDecoder(), [], 0
    while position < len(printed.rstrip()):
        reply, position = decoder.raw_decode(printed, position)
        replies.append(reply["infer_response"]["raw_output_contents"][0])
        position += len(printed[position:]) - len(printed[position:].lstrip())
    return replies


if __name__ == "__main__":
    main(script)
