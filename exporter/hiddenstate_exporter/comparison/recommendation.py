"""Which contender to take, as a practitioner would: the LSTM, unless another is better, or a GRU as good and cheaper.

An LSTM is the safe choice: it is rarely beaten by much (Greff et al., "LSTM: A Search Space Odyssey", 2017; Jozefowicz,
Zaremba & Sutskever, 2015) and its state is bounded twice. A GRU of as many parameters is often as good.

Where nothing was learnt, there is nothing to choose by, and nothing is recommended.
"""

import statistics
from collections.abc import Sequence

import msgspec

from hiddenstate_exporter.comparison.result import Result

NOISE = 0.01  # by how much perplexities of the same architecture differ from seed to seed, where it is not measured
CHEAPER = 0.97  # of the time for a token


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """What to take, or nothing (None), and why."""

    name: str | None
    reason: str
    unigram_perplexity: float  # of the test text, by word frequencies alone

    def __str__(self) -> str:
        return f"take {self.name}: {self.reason}" if self.name else f"nothing to recommend: {self.reason}"


def recommend(results: Sequence[Result], unigram_perplexity: float) -> Recommendation:
    """Chooses among the results, which are one or more, unless none is better than word frequencies alone."""
    noise = relative_noise(results)
    if min(result.perplexity for result in results) >= unigram_perplexity * (1 - noise):
        reason = (
            f"the budget was too small to tell, give more tokens or minutes; no perplexity is below "
            f"{unigram_perplexity:.2f}, that of word frequencies alone, by more than noise ({noise:.1%})"
        )
        return Recommendation(name=None, reason=reason, unigram_perplexity=unigram_perplexity)
    plain = [result for result in results if result.connections == "none"]
    lstms = [result for result in plain if result.cell == "lstm"]
    chosen = lstms[0] if lstms else min(results, key=lambda result: result.perplexity)
    reason = "the default" if lstms else "the lowest perplexity; no plain LSTM was compared"
    best = min(results, key=lambda result: result.perplexity)
    if best.perplexity < chosen.perplexity * (1 - noise):
        gain = 1 - best.perplexity / chosen.perplexity
        chosen, reason = best, f"its perplexity is {gain:.1%} lower than that of {chosen.name}, noise is {noise:.1%}"
    for gru in (result for result in results if result.cell == "gru" and result is not chosen):
        as_good = gru.perplexity <= chosen.perplexity * (1 + noise)
        if as_good and gru.ms_per_token <= CHEAPER * chosen.ms_per_token:
            saved = 1 - gru.ms_per_token / chosen.ms_per_token
            reason = f"as good as {chosen.name} within noise ({noise:.1%}), and {saved:.0%} faster to serve"
            chosen = gru
    return Recommendation(name=chosen.name, reason=reason, unigram_perplexity=unigram_perplexity)


def relative_noise(results: Sequence[Result]) -> float:
    """Returns by how much a perplexity may differ by chance: twice the deviation over seeds, or else one percent."""
    deviations = [
        statistics.stdev(result.perplexities) / result.perplexity for result in results if len(result.perplexities) > 1
    ]
    return max(NOISE, 2 * statistics.fmean(deviations)) if deviations else NOISE
