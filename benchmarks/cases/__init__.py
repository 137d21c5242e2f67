"""The cases: each puts loads on servers, its contenders in turn, round after round, and gives rows of a table."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases.compiled import compiled_contexts, compiled_sentences
from benchmarks.cases.memory import idle_contexts
from benchmarks.cases.next_word import cached_prefix, contexts, mixed, step
from benchmarks.cases.overload import overload, overload_stream
from benchmarks.cases.sentences import bulk_encode, client_encode, unary_encode
from benchmarks.cases.start import start
from benchmarks.results import Outcome

CASES: dict[str, Callable[[Bench], Outcome]] = {
    case.__name__.replace("_", "-"): case
    for case in (
        unary_encode,
        client_encode,
        bulk_encode,
        step,
        contexts,
        cached_prefix,
        mixed,
        overload,
        overload_stream,
        idle_contexts,
        start,
        compiled_contexts,
        compiled_sentences,
    )
}
