"""s3fs, against moto's server, which stands in for Amazon's: a repository in a bucket, and the local copies of it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
from running import check, main, output_of
from toolbox import S3, python_tool

from hiddenstate_server.inference.open_inference_pb2 import RepositoryModelLoadRequest
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from remote_model import RemoteModel

from onnx_files import scale_model
from serve_process import failed_serve, serve

URL = "s3://bucket/models"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
PUT = """
import sys, s3fs
store = s3fs.S3FileSystem()
store.mkdirs("bucket", exist_ok=True)
store.put(sys.argv[1], sys.argv[2], recursive=True)
"""


@contextmanager
def amazon(bin: Path) -> Iterator[dict[str, str]]:
    """Runs moto's server and gives the environment in which s3fs finds it."""
    command = [str(bin / "moto_server"), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stderr)))
            packages = next((bin.parent / "lib").glob("python*/site-packages"))
            yield {**KEYS, "AWS_ENDPOINT_URL": found[0], "PYTHONPATH": str(packages)}
        finally:
            process.kill()


def script() -> None:
    """Serves from a bucket: a version that comes, copies that were damaged, and a store that does not answer."""
    bin = python_tool("s3", S3)
    with TemporaryDirectory() as scratch, amazon(bin) as environment:
        folder, cache = Path(scratch, "models"), Path(scratch, "cache")
        arguments = ("--models-cache", str(cache), "--log-calls", "none")

        def publish(version: str, factor: float) -> None:
            source, bucket = scale_model(folder, version=version, factor=factor), f"bucket/models/scale/{version}/"
            output_of(bin / "python", "-c", PUT, f"{source}/", bucket, environment=environment)

        publish("1", 2.0)
        with serve(URL, *arguments, **environment) as server:
            check("a model in a bucket", answer(server.address), 2.0)
            publish("2", 3.0)
            load(server.address)
            check("a version that came while serving", answer(server.address), 3.0)

        copies = {path: path.read_bytes() for path in cache.glob("*/scale-*/files/model.onnx")}
        check("local copies", len(copies), 2)
        for copy, data in copies.items():
            copy.write_bytes(data[:-1] + b"?")
        with serve(URL, *arguments, **environment) as server:
            check("with damaged copies", answer(server.address), 3.0)
        check(
            "the one that is served was downloaded again",
            [p.read_bytes() == d for p, d in copies.items()].count(True),
            1,
        )

    failed = failed_serve("--models", URL, *arguments, **environment)
    check("a store that does not answer: exit code", failed.returncode, 1)
    check(
        "and its last line", failed.stderr.splitlines()[-1].startswith(f"Error: --models {URL}: cannot be read: "), True
    )


def answer(address: str) -> float:
    """Returns by what the served model multiplies."""
    with grpc.insecure_channel(address) as channel:
        return float(RemoteModel(channel, "scale")({"x": np.ones((1, 4), np.float32)})["y"][0, 0])


def load(address: str) -> None:
    """Brings the model up to date."""
    with grpc.insecure_channel(address) as channel:
        GRPCInferenceServiceStub(channel).RepositoryModelLoad(
            RepositoryModelLoadRequest(model_name="scale"), timeout=60
        )


if __name__ == "__main__":
    main(script)
