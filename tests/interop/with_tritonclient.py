"""tritonclient over gRPC: its blocking client, its asyncio client, and its streams."""

from pathlib import Path

from running import main, output_of
from served import served
from toolbox import ROOT, TRITONCLIENT, python_tool

SCRIPTS = ("triton_sync.py", "triton_aio.py", "triton_stream.py", "triton_numbers.py")


def script() -> None:
    """Runs each script in the environment of tritonclient, against a server of its own."""
    python = python_tool("tritonclient", TRITONCLIENT) / "python"
    for name in SCRIPTS:
        with served() as server:
            print(output_of(python, Path(__file__).with_name(name), server.address, ROOT / "proto"), end="")


if __name__ == "__main__":
    main(script)
