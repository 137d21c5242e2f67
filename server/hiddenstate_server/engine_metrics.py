"""What is counted where models compute: of each model run, and of each request."""

import threading

from hiddenstate_server.tallies import Distribution, Tally


class BatchMetrics:
    """What is counted of the runs of one graph, by any of the model's runner threads."""

    def __init__(
        self, seconds: Distribution, rows: Distribution, padding: Distribution, tokens: Tally, padded_tokens: Tally
    ) -> None:
        self._lock = threading.Lock()
        self._seconds = seconds
        self._rows = rows
        self._padding = padding
        self._tokens = tokens
        self._padded_tokens = padded_tokens

    def run(self, *, rows: int, tokens: int, padded_tokens: int, seconds: float) -> None:
        """Counts one model run; `padded_tokens` are the useful `tokens` and the padding together."""
        with self._lock:
            self._seconds.observe(seconds)
            self._rows.observe(rows)
            self._padding.observe(1 - tokens / padded_tokens if padded_tokens else 0.0)
            self._tokens.value += tokens
            self._padded_tokens.value += padded_tokens


class RequestMetrics:
    """What a model counts of its requests. Belongs to the event loop."""

    __slots__ = ("compute", "queue", "tokenize", "tokens_computed", "tokens_reused")

    def __init__(
        self,
        tokenize: Distribution,
        queue: Distribution,
        compute: Distribution,
        tokens_computed: Tally,
        tokens_reused: Tally,
    ) -> None:
        self.tokenize = tokenize  # seconds in which a request's text became tokens
        self.queue = queue
        self.compute = compute
        self.tokens_computed = tokens_computed
        self.tokens_reused = tokens_reused

    def request_done(self, queue_s: float, compute_s: float, tokens_computed: int, tokens_reused: int) -> None:
        """Counts one request that the model has answered."""
        self.queue.observe(queue_s)
        self.compute.observe(compute_s)
        self.tokens_computed.value += tokens_computed
        self.tokens_reused.value += tokens_reused
