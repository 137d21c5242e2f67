"""One metrics page for all workers, collected when Prometheus asks."""

import asyncio
from collections.abc import Iterator, Sequence

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hiddenstate_server.workers.keeper import Keeper
from hiddenstate_server.workers.pages import Page, merged, metrics_of, of_process, page_of

# A worker that hangs costs a scrape this long, and stands in it with what it told last.
_WAIT_S = 2.0


class WorkersCollector(Collector):
    """Asks the workers of a running event loop; Prometheus asks on a thread of its own."""

    def __init__(self, keepers: Sequence[Keeper]) -> None:
        self._keepers = keepers
        self._loop = asyncio.get_running_loop()
        self._process = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics of all workers together, then those of each and of the supervisor."""
        pages = asyncio.run_coroutine_threadsafe(self._pages(), self._loop).result()
        return metrics_of(merged(pages))

    async def _pages(self) -> list[Page]:
        workers = {each.number: each.worker for each in self._keepers if each.worker and each.offer}
        in_time = await asyncio.gather(*(worker.told(_WAIT_S) for worker in workers.values()))
        up = {number for number, told in zip(workers, in_time, strict=True) if told}
        return [
            *(each.ended for each in self._keepers),
            *(of_process(worker.page, str(number)) for number, worker in workers.items()),
            of_process(page_of(self._process.collect()), "supervisor"),
            page_of(self._of_workers(up)),
        ]

    def _of_workers(self, up: set[int]) -> Iterator[Metric]:
        answered = GaugeMetricFamily(
            "hiddenstate_worker_up", "Whether the worker serves and has answered this scrape.", labels=["worker"]
        )
        restarts = CounterMetricFamily(
            "hiddenstate_worker_restarts", "How often the worker was started again.", labels=["worker"]
        )
        for each in self._keepers:
            answered.add_metric([str(each.number)], float(each.number in up))
            restarts.add_metric([str(each.number)], each.restarts)
        yield from (answered, restarts)
