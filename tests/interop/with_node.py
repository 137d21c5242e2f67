"""A client in Node, on @grpc/grpc-js."""

import shutil
from pathlib import Path

from running import main, output_of
from served import served
from toolbox import ROOT, node_modules


def script() -> None:
    """Runs node_client.cjs with the packages from npm."""
    modules = node_modules()
    node = shutil.which("node")
    with served() as server:
        client = Path(__file__).with_name("node_client.cjs")
        print(output_of(node, client, modules, ROOT / "proto", server.address), end="")


if __name__ == "__main__":
    main(script)
