"""The disk on which models from an object store are kept is full: what is served goes on, and the rest comes later.

PYTHONPATH=tests python -m chaos.full_disk
"""

import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click

from bundles import language_model_bundle
from hiddenstate import Client
from serve_process import ServeProcess, serve

Full = Callable[[ServeProcess, Path], AbstractContextManager[None]]
_DISK = "16m"


@contextmanager
def too_large(server: ServeProcess, cache: Path) -> Iterator[None]:
    """Lets the server's process write no file of more than 1,000 bytes: a download breaks off in the middle."""
    before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
    yield
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def full(server: ServeProcess, cache: Path) -> Iterator[None]:
    """Leaves no room on the disk."""
    ballast = cache / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                break
    yield
    ballast.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mounts a disk of its own, which only root can do."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def publish_on_a_full_disk(store: Path, cache: Path, full: Full) -> list[str]:
    """Publishes a version that there is no room for, frees room, and returns what the server had to say of it.

    Raises:
        AssertionError: something was lost, left over or not told.
    """
    language_model_bundle(store, version="1", seed=1)
    polled = ("--watch-models", "poll", "--poll-interval-s", "1", "--models-cache", str(cache))
    with serve(f"file://{store}", *polled) as server, Client(server.address) as client:
        assert client.predict("I").model_version == "1"
        with full(server, cache):
            language_model_bundle(store, version="2", seed=2)
            while server.metric("hiddenstate_model_load_failures_total", 'reason="disk_full"') < 3:
                assert client.predict("I").model_version == "1"  # goes on meanwhile
            left = [path.name for path in cache.glob("*/*") if path.is_dir()]
            assert [name[:9] for name in left] == ["tiny-lm-1"], left
        lines = server.logged_until("loaded tiny-lm version 2")
        while client.predict("I").model_version == "1":
            pass
        assert client.predict("I").model_version == "2"
    told = [line for line in lines if "no room" in line]
    assert len(told) == 1, told
    assert not [line for line in lines if "Traceback" in line]
    return told


@click.command()
def main() -> None:
    """Fill the disk below a server's models, and make room again."""
    with tempfile.TemporaryDirectory() as folder:
        store, cache = Path(folder, "a"), Path(folder, "b")
        cache.mkdir()
        click.echo(publish_on_a_full_disk(store, cache, too_large)[0].strip())
    if os.geteuid():
        click.echo("a real disk of its own: only root can mount one; left out")
        return
    with tempfile.TemporaryDirectory() as folder:
        store, cache = Path(folder, "a"), Path(folder, "b")
        cache.mkdir()
        with small_disk(cache):
            click.echo(publish_on_a_full_disk(store, cache, full)[0].strip())


if __name__ == "__main__":
    main()
