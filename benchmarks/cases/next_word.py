"""Next words of a language model: LSTM 2x512 with a vocabulary of 20,000, or one layer that hardly has a vocabulary."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks import peers
from benchmarks.bench import Bench, Run
from benchmarks.bundles import STEP_VOCAB_SIZE, VOCAB_SIZE
from benchmarks.processes import Serving
from benchmarks.results import BOUND, LIMIT, OURS, Outcome
from benchmarks.samples import Measured
from hiddenstate_server.layout import available_cores

_STREAMS = (1, 2, 4)
_STEP, _CONTEXTS, _BATCH_GAIN = 0.5, 0.7, 8.0
_CACHED, _MIXED = 1.3, 2.0
_PROBES_PER_S, _PROBE_SECONDS = 200.0, 3.0  # the latter as a multiple of a measurement's
_LEAD_S = 1.5  # for the process of a background load to begin
_SCORERS, _SCORED_WORDS = 2, 500
_BUSY = 0.5  # of what the server can predict: much nearer to all of it waits have no bound, and prove nothing


def step(bench: Bench) -> Outcome:
    """32 contexts over streams, LSTM 1x512, hardly more than the recurrent step."""
    with ExitStack() as stack:
        ours = bench.serve(stack, "step")
        contenders = {BOUND: bench.bound("step", kind="step", batch_sizes=(32,))}
        contenders |= _over_streams(bench, ours, callers=32, vocab_size=STEP_VOCAB_SIZE)
        if bench.with_peers:
            contenders |= _limit(bench, stack, callers=32, vocab_size=STEP_VOCAB_SIZE)
        found = bench.compare("next word, 32 contexts, LSTM 1x512", contenders)
    aims = [found.at_least(_STEP, _name(streams)) for streams in _STREAMS] if bench.variant == "fp32" else []
    return Outcome(found.rows(), aims)


def contexts(bench: Bench) -> Outcome:
    """256 contexts over streams, LSTM 2x512, vocabulary 20,000, top 5; beside the same server with batch 1."""
    alone = f"{OURS}, batch 1"
    with ExitStack() as stack:
        ours = bench.serve(stack, "lm")
        # Contexts that go alone gain nothing from a second thread: each core has its own.
        single = bench.serve(stack, "lm", "--max-batch", "1", "--runners", str(available_cores()), "--threads", "1")
        contenders = {BOUND: bench.bound("lm", kind="step", batch_sizes=(64,))}
        contenders |= _over_streams(bench, ours, callers=256, vocab_size=VOCAB_SIZE)
        contenders[alone] = bench.load(single, kind="contexts", callers=256, vocab_size=VOCAB_SIZE)
        if bench.with_peers:
            contenders |= _limit(bench, stack, callers=256, vocab_size=VOCAB_SIZE)
        found = bench.compare("next word, 256 contexts, LSTM 2x512", contenders)
    aims = []
    if bench.variant == "int8":
        aims = [found.at_least(_CONTEXTS, _name(streams)) for streams in _STREAMS]
        aims.append(found.at_least(_BATCH_GAIN, _name(1), to=alone))
    return Outcome(found.rows(), aims)


def cached_prefix(bench: Bench) -> Outcome:
    """One caller: a context of 200 words of which 199 were seen before, and one of a single word; none comes twice."""
    one, long = "context of one word", "200 words, 199 cached"
    with ExitStack() as stack:
        ours = bench.serve(stack, "lm")
        contenders = {
            one: bench.load(ours, kind="predict"),
            long: bench.load(ours, kind="predict", num_words=200, seed=bench.seed + 1),
        }
        found = bench.compare("unary Predict, one caller", contenders)
    return Outcome(
        found.rows(),
        [found.at_most(_CACHED, long, one, "p50_ms", "median with 199 of 200 words cached, of one word's")],
    )


def mixed(bench: Bench) -> Outcome:
    """Predictions of one token, 200 a second, beside other predictions that take half of what the server can, beside
    texts of 500 tokens that are scored at as many tokens a second, and beside texts that are scored without pause."""
    predicted, scored = "beside predictions, half of what it can", "beside 500-token scoring, as many tokens"
    busy = "beside 500-token scoring without pause"
    with ExitStack() as stack:
        mix = _Mix(bench, bench.serve(stack, "lm"))
        contenders = {"no other load": mix.probe(11)}
        contenders |= {predicted: mix.predicting, scored: mix.scoring, busy: mix.scoring_without_pause}
        found = bench.compare("unary Predict of one token, 200 a second", contenders)
    what = {scored: "p99 beside scoring, of that beside predictions", busy: "the same, scoring without pause"}
    return Outcome(
        found.rows(), [found.at_most(_MIXED, each, predicted, "p99_ms", name) for each, name in what.items()]
    )


class _Mix:
    """Probes beside other loads; as many tokens are scored as were predicted before."""

    def __init__(self, bench: Bench, server: Serving) -> None:
        self._bench = bench
        self._server = server
        self._seconds = max(1.0, _PROBE_SECONDS * bench.seconds)
        self._probes = {seed: self.probe(seed) for seed in (12, 13, 14)}
        self._capacity = bench.load(server, kind="contexts", callers=256, streams=2, vocab_size=VOCAB_SIZE)
        self._without_pause = self._background(kind="score", callers=_SCORERS, num_words=_SCORED_WORDS)
        self._tokens_per_s = 0.0

    def probe(self, seed: int) -> Run:
        """Returns predictions whose first word is known and whose second one is new."""
        return self._bench.load(
            self._server, kind="predict", per_s=_PROBES_PER_S, num_words=2, seconds=self._seconds, seed=seed
        )

    def predicting(self) -> Measured:
        """Measures beside contexts that each append a word now and then."""
        self._tokens_per_s = _BUSY * self._capacity().per_s
        load = self._background(kind="contexts", callers=8_000, streams=2, per_s=self._tokens_per_s)
        return self._beside(load, 12, 1)

    def scoring(self) -> Measured:
        """Measures beside as many tokens a second that are scored."""
        load = self._background(kind="score", per_s=self._tokens_per_s / _SCORED_WORDS, num_words=_SCORED_WORDS)
        return self._beside(load, 13, _SCORED_WORDS)

    def scoring_without_pause(self) -> Measured:
        """Measures beside callers who ask for the next text as soon as they have the one before."""
        return self._beside(self._without_pause, 14, _SCORED_WORDS)

    def _background(self, **values: object) -> Run:
        return self._bench.load(self._server, seconds=self._seconds + 2 * _LEAD_S, vocab_size=VOCAB_SIZE, **values)

    def _beside(self, background: Run, probe: int, tokens: int) -> Measured:
        """Runs probes while another load goes on, whose answers stand for so many tokens each."""
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(background)
            time.sleep(_LEAD_S)
            probed = self._probes[probe]()
        return dataclasses.replace(probed, note=f"beside {other.result().per_s * tokens:,.0f} tokens/s")


def _name(streams: int) -> str:
    return f"{OURS}, {streams} stream{'s' * (streams > 1)}"


def _over_streams(bench: Bench, server: Serving, *, callers: int, vocab_size: int) -> dict[str, Run]:
    return {
        _name(streams): bench.load(server, kind="contexts", callers=callers, streams=streams, vocab_size=vocab_size)
        for streams in _STREAMS
    }


def _limit(bench: Bench, stack: ExitStack, *, callers: int, vocab_size: int) -> dict[str, Run]:
    echo = stack.enter_context(peers.echo())
    return {f"{LIMIT}: the load's own limit": bench.load(echo, kind="contexts", callers=callers, vocab_size=vocab_size)}
