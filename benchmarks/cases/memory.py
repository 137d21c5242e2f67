"""What contexts cost that nobody uses right now."""

import re
import urllib.request
from contextlib import ExitStack

from benchmarks.bench import Bench
from benchmarks.bundles import bundle_folder
from benchmarks.processes import Serving
from benchmarks.results import OURS, Aim, Comparison, Outcome
from hiddenstate_server.bundle import load_bundle

_CONTEXTS, _STREAMS = 50_000, 16
_MORE_BYTES = 512  # than the state itself has
_CASE = "50,000 idle contexts, LSTM 2x512"
_STREAMED, _CACHED = f"{OURS}, held on streams", f"{OURS}, held in the cache"


def idle_contexts(bench: Bench) -> Outcome:
    """50,000 contexts of two words, on streams and in the prefix-state cache: resident memory for each."""
    spec = load_bundle(bundle_folder(bench.models["lm"])).language_model
    assert spec
    state_bytes = 4 * spec.state_size
    with ExitStack() as stack:
        ours = bench.serve(stack, "lm", "--cache-bytes", "0")
        streamed = bench.load(ours, kind="hold", callers=_CONTEXTS, streams=_STREAMS, top_k=1)()
    with ExitStack() as stack:
        ours = bench.serve(stack, "lm", "--cache-bytes", "4GiB")
        cached = bench.load(ours, kind="hold", callers=_CONTEXTS, streams=_STREAMS, top_k=1, keep=False)()
        entries, accounted = (_metric(ours, name) for name in ("hiddenstate_cache_entries", "hiddenstate_cache_bytes"))
    found = Comparison(_CASE, {_STREAMED: [streamed], _CACHED: [cached]})
    return Outcome(
        found.rows(),
        [
            _aim(_STREAMED, streamed.grown_bytes / _CONTEXTS, state_bytes),
            _aim(f"{_CACHED} ({entries:,.0f} states)", cached.grown_bytes / _CONTEXTS, state_bytes),
            _aim("the cache's own account of a state", accounted / entries, state_bytes),
        ],
    )


def _aim(what: str, bytes_each: float, state_bytes: int) -> Aim:
    limit = state_bytes + _MORE_BYTES
    return Aim(case=_CASE, what=f"{what}: memory", values=[bytes_each], limit=limit, kind="at most", unit=" bytes")


def _metric(server: Serving, name: str) -> float:
    """Reads one number off the metrics page."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as page:
        found = re.search(rf"^{name} (\S+)$", page.read().decode(), re.MULTILINE)
    assert found, name
    return float(found[1])
