"""Prometheus: takes our rules and scrapes a server under light load; dashboard and alerts get what they ask for."""

import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from running import check, main, output_of
from served import served
from toolbox import ROOT, UnavailableError

from hiddenstate import Client, HiddenstateError
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tensor_requests import step

DEPLOY: Final = ROOT / "deploy"
WAIT_S: Final = 60.0
ONE: Final = np.ones((1, 1), np.float32)
# Grafana's variables, as they are for one who looks at everything.
VARIABLES: Final = {"$__rate_interval": "10s", "$instance": ".*", "$model": ".*"}


def script() -> None:
    """Checks the files, then asks a Prometheus everything that dashboard and alerts ask."""
    for program in ("promtool", "prometheus"):
        if not shutil.which(program):
            raise UnavailableError(f"{program} is not installed; on Debian: apt-get install prometheus")
    checked = output_of("promtool", "check", "config", DEPLOY / "prometheus/prometheus.yaml")
    check("promtool check config", checked.count("SUCCESS"), 3)
    tested = output_of("promtool", "test", "rules", DEPLOY / "prometheus/hiddenstate.tests.yml")
    check("promtool test rules", "SUCCESS" in tested, True)
    with served("--workers", "2", "--max-stream-contexts", "2") as server, loaded(server.address):
        (server.models / "broken" / "1").mkdir(parents=True)
        (server.models / "broken" / "1" / "bundle.json").write_text("{}")
        with prometheus(server.announcement[0]) as asked:
            _wait_for_series(asked)
            _check_dashboard(asked)
            _check_alerts(asked)


def _check_dashboard(asked: "Asked") -> None:
    dashboard = json.loads((DEPLOY / "grafana/hiddenstate.json").read_text())
    queries = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]
    empty = [title for title, query in queries if not asked.series(_filled_in(query))]
    check("queries of the dashboard", len(queries) > 25, True)
    check("those that return no series", empty, [])


def _check_alerts(asked: "Asked") -> None:
    groups = asked.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    check("alerts that were evaluated", {rule["health"] for rule in rules}, {"ok"})
    selectors = {
        selector
        for rule in rules
        for selector in re.findall(r"(?:hiddenstate|process)_\w+(?:\{[^}]*\})?|up\{[^}]*\}", rule["query"])
    }
    empty = [selector for selector in sorted(selectors) if not asked.series(_any_value(selector))]
    check("metrics of alerts that have no series", empty, [])
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    check("the alert of a model that is refused fires", "HiddenstateModelRefused" in firing, True)


def _filled_in(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def _any_value(selector: str) -> str:
    """Returns a selector without the labels that name a trouble: what matters is that the metric is there."""
    return re.sub(r'(code|reason)[=!]~?"[^"]*",?', "", selector)


def _wait_for_series(asked: "Asked") -> None:
    """Waits until what happened last has been scraped, twice so that there is a rate, and the rules have run."""
    deadline = time.monotonic() + WAIT_S
    awaited = (
        "rate(hiddenstate_sequences_started_total[10s])",
        'rate(hiddenstate_requests_refused_total{reason="too_many_contexts"}[10s])',
        'ALERTS{alertname="HiddenstateModelRefused"}',
    )
    while missing := [query for query in awaited if not asked.series(query)]:
        assert time.monotonic() < deadline, f"no series in {WAIT_S:.0f} s of {missing}"
        time.sleep(0.5)


class Asked:
    """A Prometheus that can be asked."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Returns the data of an answer of its API."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return json.load(answer)["data"]

    def series(self, query: str) -> list[Any]:
        """Returns the series that a query finds."""
        found: list[Any] = self.get("query", query=query)["result"]
        return found


@contextmanager
def prometheus(announcement: str) -> Iterator[Asked]:
    """Runs a Prometheus on our configuration, every second, with the announced server as its target."""
    found = re.search(r"http://(\S+)/metrics", announcement)
    assert found, announcement
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(DEPLOY / "prometheus", home / "etc")
        config = home / "etc/prometheus.yaml"
        text = config.read_text().replace("server:9464", found[1])
        config.write_text(re.sub(r"_interval: \d+s", "_interval: 1s", text))
        address = f"127.0.0.1:{_free_port()}"
        command = ("prometheus", f"--config.file={config}", f"--storage.tsdb.path={home / 'data'}")
        with (home / "log").open("w") as log:
            process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            _wait_until_ready(f"http://{address}/-/ready", process, home / "log")
            yield Asked(f"http://{address}")
        finally:
            process.terminate()
            process.wait(WAIT_S)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"prometheus does not answer: {log.read_text()}"
            assert process.poll() is None, f"prometheus ended: {log.read_text()}"
            time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def loaded(address: str) -> Iterator[None]:
    """Calls a server some times a second, rightly and wrongly, until the block ends."""
    over = threading.Event()
    caller = threading.Thread(target=_call, args=(address, over), daemon=True)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join(WAIT_S)
    assert not caller.is_alive(), "a call hangs"


def _call(address: str, over: threading.Event) -> None:
    with Client(address) as client, client.open_stream() as stream, grpc.insecure_channel(address) as channel:
        tensors = GRPCInferenceServiceStub(channel)
        kept = [stream.context(), stream.context()]
        while not over.wait(0.1):
            client.predict("The car is on the road")
            client.encode(["The car", "A road."])
            client.score("The car")
            list(client.generate("The", max_tokens=3))
            for context in kept:
                context.predict("car")
            for wrong in (partial(stream.context().predict, "one too many"), client.predict):
                with suppress(HiddenstateError):
                    wrong()
            for is_end in (False, True):
                tensors.ModelInfer(step("sum", {"x": ONE}, "s", start=not is_end, end=is_end))


if __name__ == "__main__":
    main(script)
