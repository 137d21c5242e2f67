"""What one PredictStream remembers and answers."""

from collections.abc import Coroutine
from typing import Any

from hiddenstate.v1.language_model_pb2 import PredictRequest, StreamedPredictRequest
from hiddenstate_server.errors import InvalidRequestError, OverloadedError
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.messages import read_context, read_is_bulk, read_predict_options
from hiddenstate_server.repository import Repository
from hiddenstate_server.sequence import Predicting
from hiddenstate_server.state_token import State
from hiddenstate_server.streams import Answer, Answered, Arrived, Lane, deadline_of
from hiddenstate_server.tallies import Tally


class StreamContext(Lane):
    """A context of a stream, and the requests that wait for it. Its first answer binds it to a model."""

    __slots__ = ("model", "state")

    def __init__(self) -> None:
        super().__init__()
        self.state: State | None = None
        self.model: LanguageModel | None = None


class PredictRequests:
    """Answers the requests of one stream; owns its contexts."""

    __slots__ = ("_contexts", "_counted", "_deadline", "_max_contexts", "_repository")

    def __init__(self, repository: Repository, *, deadline: float, max_contexts: int, counted: Tally) -> None:
        """`counted` is the number of contexts that all streams hold."""
        self._counted = counted
        self._repository = repository
        self._deadline = deadline
        self._max_contexts = max_contexts
        self._contexts: dict[int, StreamContext] = {}

    def weight(self, request: StreamedPredictRequest) -> int:
        """Counts every request as one."""
        return 1

    def lane(self, request: StreamedPredictRequest) -> StreamContext | None:
        """Returns the context that a request names, a new one if there is none.

        Raises:
            OverloadedError: the stream has as many contexts as it may.
        """
        context_id = request.context_id
        if not context_id:
            return None
        context = self._contexts.get(context_id)
        if request.close_context:
            # From here on the id is free; requests that wait for the old context still have it.
            if self._contexts.pop(context_id, None):
                self._counted.value -= 1
        elif context is None:
            self._check_room()
            self._counted.value += 1
            context = self._contexts[context_id] = StreamContext()
        return context or StreamContext()

    def close(self) -> None:
        """Lets go of all contexts, when the stream has ended."""
        self._counted.value -= len(self._contexts)
        self._contexts.clear()

    def forget_if_never_begun(self, context_id: int, context: StreamContext | None) -> None:
        """Lets go of a context that no request has led anywhere."""
        is_last = context is not None and context.state is None and not context.waiting
        if is_last and self._contexts.get(context_id) is context:
            del self._contexts[context_id]
            self._counted.value -= 1

    def begin(
        self, arrived: Arrived, context: StreamContext | None, answered: Answered
    ) -> Coroutine[Any, Any, None] | None:
        """Begins a prediction; the answer is None where a context was only closed.

        Raises:
            ServingError: the context is as it was before.
        """
        request = arrived.request
        if not request.HasField("predict"):
            if not request.close_context:
                raise InvalidRequestError("predict: is not set; only a request with close_context may leave it out")
            answered(arrived, context, None)
            return None
        try:
            return self._begin(arrived, context, answered)
        except BaseException:
            self.forget_if_never_begun(request.context_id, context)
            raise

    def _begin(
        self, arrived: Arrived, context: StreamContext | None, answered: Answered
    ) -> Coroutine[Any, Any, None] | None:
        predict = arrived.request.predict
        model = self._model(predict, context)
        predictor = model.predictor
        is_bulk, deadline = read_is_bulk(predict), deadline_of(arrived, self._deadline)
        refusal = model.scheduler.refusal(deadline, is_bulk)
        if refusal is not None:
            self.forget_if_never_begun(arrived.request.context_id, context)
            answered(arrived, context, refusal)
            return None
        sent, options = read_context(predict), read_predict_options(predict)
        if sent.is_long():
            coming = predictor.work(sent, options, deadline, is_bulk, context)
            return self._submit_when_ready(coming, model, arrived, context, answered)
        work = predictor.work_now(sent, options, deadline, is_bulk, context)
        self._submit(work, model, arrived, context, answered)
        return None

    async def _submit_when_ready(
        self,
        coming: Coroutine[Any, Any, Predicting],
        model: LanguageModel,
        arrived: Arrived,
        context: StreamContext | None,
        answered: Answered,
    ) -> None:
        try:
            self._submit(await coming, model, arrived, context, answered)
        except BaseException:
            self.forget_if_never_begun(arrived.request.context_id, context)
            raise

    def _submit(
        self,
        work: Predicting,
        model: LanguageModel,
        arrived: Arrived,
        context: StreamContext | None,
        answered: Answered,
    ) -> None:
        arrived.works = (work,)
        work.told = _Asked(self, work, model, arrived, context, answered).told
        model.scheduler.submit(arrived.works)

    def _model(self, request: PredictRequest, context: StreamContext | None) -> LanguageModel:
        if context is None or context.model is None:
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
                "(--max-stream-contexts); close some with close_context, or open another stream",
                reason="too_many_contexts",
            )


class _Asked:
    """What is told when a prediction is over."""

    __slots__ = ("_answered", "_arrived", "_context", "_model", "_requests", "_work")

    def __init__(
        self,
        requests: PredictRequests,
        work: Predicting,
        model: LanguageModel,
        arrived: Arrived,
        context: StreamContext | None,
        answered: Answered,
    ) -> None:
        self._requests = requests
        self._work = work
        self._model = model
        self._arrived = arrived
        self._context = context
        self._answered = answered

    def told(self, over: bool) -> None:
        """Answers."""
        if self._work.abandoned:  # the stream has ended
            return
        try:
            if self._work.error:
                raise self._work.error
            predictor = self._model.predictor
            answer: Answer = predictor.response(self._work)
            if self._context is not None:
                self._context.model = self._model
        except Exception as error:
            self._requests.forget_if_never_begun(self._arrived.request.context_id, self._context)
            answer = error
        self._answered(self._arrived, self._context, answer)
