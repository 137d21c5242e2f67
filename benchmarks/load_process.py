"""Started by the benchmarks as `python -m benchmarks.load_process JSON`; the JSON is a `Load`."""

import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable

import uvloop

from benchmarks import client_load, held_load, stream_load, unary_load
from benchmarks.cpu import name_threads
from benchmarks.load import Kind, Load
from benchmarks.samples import Measured

_KINDS: dict[Kind, Callable[[Load], Measured | Awaitable[Measured]]] = {
    "encode": unary_load.grpc,
    "infer": unary_load.grpc,
    "predict": unary_load.grpc,
    "score": unary_load.grpc,
    "http": unary_load.http,
    "tasks": client_load.tasks,
    "threads": client_load.threads,
    "bulk": client_load.bulk,
    "contexts": stream_load.measure,
    "encode-stream": stream_load.measure,
    "hold": held_load.measure,
}


def main() -> None:
    """Runs the load that the command line names."""
    load = Load(**json.loads(sys.argv[1]))
    name_threads()

    async def run() -> Measured:
        result = _KINDS[load.kind](load)
        return result if isinstance(result, Measured) else await result

    print(json.dumps(dataclasses.asdict(uvloop.run(run()))))


if __name__ == "__main__":
    main()
