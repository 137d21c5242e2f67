"""A server's metrics page, read twice: what happened between the two."""

import http.client
import math
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import click
from prometheus_client.parser import text_string_to_metric_families

from hiddenstate.errors import HiddenstateError

_MAX_BYTES = 64 * 1024 * 1024

Labels = tuple[tuple[str, str], ...]  # sorted by name


class PageError(HiddenstateError):
    """A metrics page cannot be read; the message says why."""


class Page(NamedTuple):
    """All samples of a page, by name, and when it was read (time.monotonic())."""

    samples: Mapping[str, Mapping[Labels, float]]
    at: float


def tls_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Returns whom to trust, by default whom the system trusts, and what to show.

    Raises:
        click.UsageError: a file cannot be used.
    """
    if (cert is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key: give both or none")
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--tls-ca: {ca} cannot be used: {_reason(error)}") from None
    try:
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--tls-cert: {cert} with --tls-key cannot be used: {_reason(error)}") from None
    return context


def read_page(url: str, timeout_s: float, tls: ssl.SSLContext | None = None) -> Page:
    """Reads a page.

    Raises:
        PageError: it cannot be read, or is not one of a hiddenstate server.
    """
    try:
        _check_port(url)
        with urllib.request.urlopen(url, timeout=timeout_s, context=tls) as answer:
            text = answer.read(_MAX_BYTES).decode("utf-8")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise PageError(f"--metrics: {url} cannot be read: {_reason(error)}") from None
    page = parse_page(text, time.monotonic())
    if page is None:
        raise PageError(f"--metrics: {url} is not the metrics page of a hiddenstate server")
    return page


def parse_page(text: str, at: float) -> Page | None:
    """Returns what a page says; None if it is of something else."""
    samples: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    except (ValueError, KeyError, IndexError):  # what the parser raises for what is no such page
        return None
    return Page(samples, at) if "hiddenstate_build_info" in samples else None


class Span:
    """What happened between two pages of one server. `where` are labels that samples must have."""

    def __init__(self, before: Page, after: Page) -> None:
        self._before = before
        self._after = after
        self._seconds = max(1e-9, after.at - before.at)

    def value(self, name: str, **where: str) -> float:
        """Returns the sum of values as they are now; 0 where there is none."""
        return sum(self._now(name, where).values())

    def added(self, name: str, **where: str) -> float:
        """Returns by how much counters went up. One that fell was begun anew by a server that was, and counts whole."""
        before = self._before.samples.get(name, {})
        now = self._now(name, where)
        return sum(value - old if value >= (old := before.get(key, 0.0)) else value for key, value in now.items())

    def rate(self, name: str, **where: str) -> float:
        """Returns how fast counters went up, per second."""
        return self.added(name, **where) / self._seconds

    def mean(self, name: str, **where: str) -> float:
        """Returns the mean of what a histogram counted; not a number where that is nothing."""
        count = self.added(f"{name}_count", **where)
        return self.added(f"{name}_sum", **where) / count if count else math.nan

    def quantile(self, share: float, name: str, **where: str) -> float:
        """Returns a quantile of what a histogram counted, linear within buckets as Prometheus has it."""
        bounds = {dict(labels)["le"] for labels in self._now(f"{name}_bucket", where)}
        counts = sorted((float(bound), self.added(f"{name}_bucket", **where, le=bound)) for bound in bounds)
        if not counts or not counts[-1][1]:
            return math.nan
        rank = share * counts[-1][1]
        low, below = 0.0, 0.0
        for bound, count in counts:
            if count >= rank and count > below:
                return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
            low, below = bound, count
        return math.nan

    def labels(self, name: str, *wanted: str, **where: str) -> list[tuple[str, ...]]:
        """Returns the different values that labels have, in order."""
        found = (dict(labels) for labels in self._now(name, where))
        return sorted({tuple(labels.get(each, "") for each in wanted) for labels in found})

    def _now(self, name: str, where: Mapping[str, str]) -> Mapping[Labels, float]:
        samples = self._after.samples.get(name, {})
        wanted = set(where.items())
        return {labels: value for labels, value in samples.items() if wanted <= set(labels)} if wanted else samples


def _check_port(url: str) -> None:
    # Sockets would take another port for one that is too large.
    port = urllib.parse.urlsplit(url).netloc.rpartition(":")[2]
    if port.isdecimal() and not 0 < int(port) < 2**16:
        raise ValueError(f"there is no port {port}; they go from 1 to 65535")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        if isinstance(reason, ssl.SSLCertVerificationError):
            return f"its certificate is not one to trust: {reason.verify_message} (--tls-ca)"
        return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
    if isinstance(error, http.client.HTTPException):
        return "it does not answer HTTP"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
