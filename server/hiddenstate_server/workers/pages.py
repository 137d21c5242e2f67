"""Metrics pages of several workers as one: sums, where a sum means something."""

from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client.core import Metric

Labels = dict[str, str]


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric and its samples (name, labels, value)."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, Labels, float]]

    def metric(self) -> Metric:
        """Returns the family as Prometheus's library has it."""
        metric = Metric(self.name, self.documentation, self.type)
        for name, labels, value in self.samples:
            metric.add_sample(name, labels, value)
        return metric


Page = list[Family]


def page_of(metrics: Iterable[Metric]) -> Page:
    """Returns metrics as a page that can be sent and summed."""
    return [
        Family(each.name, each.documentation, each.type, [(one.name, one.labels, one.value) for one in each.samples])
        for each in metrics
    ]


def of_process(page: Page, process: str) -> Page:
    """Labels what is told of one process and means nothing when summed: its memory, its processor time."""
    return [_labelled(family, worker=process) if _is_of_process(family) else family for family in page]


def lasting(page: Page) -> Page:
    """Returns what has to outlive the process that counted it: else sums would fall, and rates would jump."""
    return [family for family in page if family.type in ("counter", "histogram") and not _is_of_process(family)]


def merged(pages: Iterable[Page]) -> Page:
    """Sums samples of the same name and labels; families and samples stay in the order in which they came."""
    families: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (family for page in pages for family in page):
        families.setdefault(family.name, family)
        values = sums.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = name, tuple(sorted(labels.items()))
            values[key] = max(value, values.get(key, value)) if _is_largest(family) else value + values.get(key, 0.0)
    return [
        msgspec.structs.replace(family, samples=[(name, dict(labels), value) for (name, labels), value in of.items()])
        for family, of in zip(families.values(), sums.values(), strict=True)
    ]


def metrics_of(page: Page) -> Iterator[Metric]:
    """Yields the families of a page as Prometheus's library has them."""
    for family in page:
        yield family.metric()


def _is_of_process(family: Family) -> bool:
    return family.name.startswith("process_")


def _is_largest(family: Family) -> bool:
    """Tells whether a sum would mean nothing: all values are 1 and the labels what is said, or no run is that large."""
    return family.type == "info" or family.name.endswith(("_info", "_limit_rows"))


def _labelled(family: Family, **more: str) -> Family:
    return msgspec.structs.replace(
        family, samples=[(name, labels | more, value) for name, labels, value in family.samples]
    )
