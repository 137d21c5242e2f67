"""What one PredictStream remembers and answers."""

from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictStreamResponse,
    StreamedPredictRequest,
    StreamedPredictResponse,
)
from hiddenstate_server.context import HeldContext
from hiddenstate_server.errors import InvalidRequestError, OverloadedError
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.messages import fill_prediction, read_context, read_top_k
from hiddenstate_server.repository import Repository
from hiddenstate_server.results import Prediction
from hiddenstate_server.streams import Lane


class StreamContext(Lane[StreamedPredictRequest]):
    """A context of a stream, and the requests that wait for it. Its first answer binds it to a model."""

    def __init__(self) -> None:
        super().__init__()
        self.held = HeldContext()
        self.model: LanguageModel | None = None


class PredictRequests:
    """Answers the requests of one stream; owns its contexts."""

    def __init__(self, repository: Repository, *, deadline: float, max_contexts: int) -> None:
        self._repository = repository
        self._deadline = deadline
        self._max_contexts = max_contexts
        self._contexts: dict[int, StreamContext] = {}

    def new_message(self) -> PredictStreamResponse:
        """Returns an empty message for replies."""
        return PredictStreamResponse()

    def weight(self, request: StreamedPredictRequest) -> int:
        """Counts every request as one."""
        return 1

    def lane(self, request: StreamedPredictRequest) -> StreamContext | None:
        """Returns the context that a request names, a new one if there is none.

        Raises:
            OverloadedError: the stream has as many contexts as it may.
        """
        if not request.context_id:
            return None
        context = self._contexts.get(request.context_id) or StreamContext()
        if request.close_context:
            # From here on the id is free; requests that wait for the old context still have it.
            self._contexts.pop(request.context_id, None)
        elif request.context_id not in self._contexts:
            self._check_room()
            self._contexts[request.context_id] = context
        return context

    async def answer(
        self, request: StreamedPredictRequest, context: StreamContext | None
    ) -> tuple[LanguageModel, Prediction] | None:
        """Answers a request; None says that its context was only closed.

        Raises:
            ServingError: the context is as it was before.
        """
        if not request.HasField("predict"):
            if not request.close_context:
                raise InvalidRequestError("predict: is not set; only a request with close_context may leave it out")
            return None
        try:
            return await self._predict(request.predict, context)
        except BaseException:
            self._forget_if_never_begun(request.context_id, context)
            raise

    def fill(self, reply: StreamedPredictResponse, answer: tuple[LanguageModel, Prediction] | None) -> int:
        """Writes an answer and returns about how many bytes it has."""
        if answer is None:
            return 16
        model, prediction = answer
        fill_prediction(reply.response, prediction, model)
        return 64 + 32 * len(prediction.candidates) + len(prediction.state)

    async def _predict(
        self, request: PredictRequest, context: StreamContext | None
    ) -> tuple[LanguageModel, Prediction]:
        model = self._model(request, context)
        prediction = await model.predict(
            read_context(request),
            top_k=read_top_k(request),
            prefix=request.prefix,
            return_state=request.return_state,
            deadline=self._deadline,
            held=context.held if context else None,
        )
        if context:
            context.model = model
        return model, prediction

    def _model(self, request: PredictRequest, context: StreamContext | None) -> LanguageModel:
        if not (context and context.model):
            return self._repository.language_model(request.model, request.model_version)
        model = context.model
        if request.model not in ("", model.name) or request.model_version not in ("", model.version):
            raise InvalidRequestError(
                f"model: this context belongs to {model.name} version {model.version}; "
                "begin another context for another model"
            )
        return model

    def _check_room(self) -> None:
        if len(self._contexts) >= self._max_contexts:
            raise OverloadedError(
                f"context_id: this stream has {len(self._contexts)} contexts, as many as it may "
                "(--max-stream-contexts); close some with close_context, or open another stream"
            )

    def _forget_if_never_begun(self, context_id: int, context: StreamContext | None) -> None:
        is_last = context is not None and context.held.state is None and len(context.waiting) == 1
        if is_last and self._contexts.get(context_id) is context:
            del self._contexts[context_id]
