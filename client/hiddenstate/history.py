"""What a context has consumed, so that another server can be told where the one that held it is gone."""

from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictResponse

# Past either, the next reply is asked for the state: a few KiB that stand for all that came before. So what a context
# costs the client is bounded, and what another server has to compute again is little. Most contexts never get there.
_MOST_REQUESTS = 64
_MOST_SIZE = 4096  # characters or token ids


class History:
    """The requests that a context has consumed since the last state that is known."""

    def __init__(self) -> None:
        self._state: bytes | None = None
        self._requests: list[PredictRequest] = []
        self._size = 0
        self._model = self._model_version = ""

    @property
    def wants_state(self) -> bool:
        """Whether so much has come together that a state should take its place."""
        return len(self._requests) >= _MOST_REQUESTS or self._size >= _MOST_SIZE

    def add(self, request: PredictRequest, response: PredictResponse) -> None:
        """Takes note of a request that was answered."""
        self._model, self._model_version = response.model, response.model_version
        if response.state:
            self._begin(response.state)
            return
        if request.state:
            self._begin(None)
        if size := len(request.text) + len(request.tokens.ids) or len(request.state):
            self._requests.append(request)
            self._size += size

    def before(self, request: PredictRequest) -> list[PredictRequest]:
        """Returns the requests that bring a new context to where the old one was, with `request` as their last.

        They are those that were sent, one by one: as one text, words might be cut otherwise. The model's version is
        named, since another one would go on with other words.
        """
        if request.state:
            return [request]
        requests = [*(self._again(each) for each in self._requests), request]
        for each in requests:
            if self._model:
                each.model, each.model_version = self._model, self._model_version
        if self._state is not None:
            requests[0].state = self._state
        return requests

    def _begin(self, state: bytes | None) -> None:
        self._state, self._size = state, 0
        self._requests.clear()

    def _again(self, request: PredictRequest) -> PredictRequest:
        """Returns a request that consumes the same and asks for next to nothing."""
        again = PredictRequest()
        again.CopyFrom(request)
        again.top_k, again.prefix, again.return_state = 1, "", False
        return again
