"""What is around a server breaks: a full disk, lost models, connections that die silently, a clock that jumps."""

import re
import signal
import subprocess
from pathlib import Path

import pytest

import hiddenstate
import hiddenstate_server
from chaos.lost_models import lose
from chaos.proxy import Proxy
from hiddenstate import Client, DeadlineError, UnavailableError
from serve_process import COMMAND, WAIT_S, serve

_FULL = Path("/dev/full")  # takes nothing: "No space left on device"


@pytest.mark.skipif(not _FULL.exists(), reason="there is no /dev/full here")
def test_a_server_whose_log_has_no_room_serves_on(models_dir: Path) -> None:
    listen = ("--listen", "127.0.0.1:0", "--metrics", "off", "--log-calls", "all", "--models", str(models_dir))
    with (
        _FULL.open("w") as full,
        subprocess.Popen([*COMMAND, *listen], stdout=subprocess.PIPE, stderr=full, text=True) as process,
    ):
        try:
            assert process.stdout
            address = re.search(r" on (\S+), ", process.stdout.readline().replace("\n", ", "))
            assert address
            with Client(address[1]) as client:
                for _ in range(3):
                    assert client.predict("I", model="tiny-lm").candidates
                    assert client.score("I", model="tiny-lm").tokens
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_S)
        finally:
            process.kill()


def test_a_server_whose_models_vanish_goes_on_with_what_it_has(tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert f"--models {models}: cannot be read: No such file or directory; what is served stays" in lose(models)


def test_a_client_finds_out_about_a_connection_that_died_without_a_word(models_dir: Path) -> None:
    with serve(models_dir) as server, Proxy(server.address) as proxy, Client(proxy.address, keepalive_s=1) as client:
        with client.open_stream() as stream, stream.context() as context:
            before = context.predict("I would", top_k=1)
            proxy.cut()
            with pytest.raises(DeadlineError):
                client.predict("I", timeout_s=0.1)
            # Its contexts go on too: the connection is given up, and another one works.
            assert context.predict("like", top_k=1, timeout_s=WAIT_S).candidates
            assert before.candidates
        while True:
            try:
                assert client.predict("I", timeout_s=1).candidates
                break
            except (DeadlineError, UnavailableError):
                continue


def test_no_time_is_measured_with_a_clock_that_may_jump() -> None:
    sources = [
        path
        for package in (hiddenstate, hiddenstate_server)
        for path in Path(str(package.__file__)).parent.rglob("*.py")
    ]
    found = {path.name for path in sources if re.search(r"\btime\.time(_ns)?\(", path.read_text(encoding="utf-8"))}
    assert len(sources) > 100
    # The age of a file, the time of the last call, which the Open Inference Protocol wants as a date, and traces, which
    # are put together with those of other machines.
    assert found == {"object_store.py", "statistics.py", "tracing.py"}
