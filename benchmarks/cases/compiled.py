"""The server as it is compiled, beside the same sources interpreted."""

from contextlib import ExitStack

from benchmarks.bench import Bench, Run
from benchmarks.bundles import VOCAB_SIZE, Name
from benchmarks.results import OURS, Outcome

_WAYS = {"compiled": False, "interpreted": True}


def compiled_contexts(bench: Bench) -> Outcome:
    """256 contexts over a stream, as in `contexts`."""
    return _beside(
        bench, "lm", "next word, compiled and interpreted", kind="contexts", callers=256, vocab_size=VOCAB_SIZE
    )


def compiled_sentences(bench: Bench) -> Outcome:
    """The thin client, 64 calls at a time, as in `client-encode`."""
    return _beside(bench, "encoder", "thin client, compiled and interpreted", kind="tasks", callers=64)


def _beside(bench: Bench, model: Name, case: str, **load: object) -> Outcome:
    contenders: dict[str, Run] = {}
    with ExitStack() as stack:
        for way, interpreted in _WAYS.items():
            contenders[f"{OURS}, {way}"] = bench.load(bench.serve(stack, model, interpreted=interpreted), **load)
        return Outcome(bench.compare(case, contenders).rows(), [])
