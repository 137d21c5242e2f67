"""hiddenstate.v1.LanguageModelService: messages to plain values, the model's answer to messages."""

from collections.abc import AsyncIterator
from contextlib import aclosing, closing

from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    GenerateResponse,
    PredictRequest,
    PredictStreamRequest,
    ScoreRequest,
    ScoreResponse,
)
from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceServicer
from hiddenstate_server.call_metrics import CallMetrics
from hiddenstate_server.config import Settings
from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.interceptor import Context
from hiddenstate_server.messages import (
    fill_generated,
    fill_score,
    read_context,
    read_deadline,
    read_generate_options,
    read_is_bulk,
    read_predict_options,
)
from hiddenstate_server.predict_stream import PredictRequests
from hiddenstate_server.repository import Repository
from hiddenstate_server.security.metering import metered
from hiddenstate_server.streams import Stream


class LanguageModelService(LanguageModelServiceServicer):
    """Its methods raise errors.ServingError, which the interceptor makes a status."""

    def __init__(
        self, repository: Repository, *, settings: Settings, running: RunningCalls, metrics: CallMetrics
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._running = running
        self._streamed = metrics.of_request("PredictStream")
        self._unread = metrics.unread.labels("PredictStream")
        self._contexts = metrics.contexts

    async def Predict(  # type: ignore[override]  # noqa: N802 - returns the message's bytes
        self, request: PredictRequest, context: Context
    ) -> bytes:
        model = self._repository.language_model(request.model, request.model_version)
        work = await model.predictor.work(
            read_context(request), read_predict_options(request), read_deadline(context), read_is_bulk(request)
        )
        await model.scheduler.run(work)
        return model.predictor.response(work)

    async def PredictStream(  # type: ignore[override]  # noqa: N802 - writes to the context instead of yielding
        self, request_iterator: AsyncIterator[PredictStreamRequest], context: Context
    ) -> None:
        requests = PredictRequests(
            self._repository,
            deadline=read_deadline(context),
            max_contexts=self._settings.max_stream_contexts,
            counted=self._contexts,
        )
        with closing(requests):
            await Stream(
                context,
                metered(requests),
                running=self._running,
                series=self._streamed,
                unread=self._unread,
                max_pending=self._settings.max_stream_pending,
            ).run()

    async def Generate(  # type: ignore[override]  # noqa: N802 - writes to the context instead of yielding
        self, request: GenerateRequest, context: Context
    ) -> None:
        model = self._repository.language_model(request.model, request.model_version)
        tokens = model.generate(
            read_context(request),
            options=read_generate_options(request),
            deadline=read_deadline(context),
            is_bulk=read_is_bulk(request),
        )
        async with aclosing(tokens):
            async for token in tokens:
                response = GenerateResponse()
                fill_generated(response, token)
                await context.write(response)

    async def Score(self, request: ScoreRequest, context: Context) -> ScoreResponse:  # noqa: N802
        model = self._repository.language_model(request.model, request.model_version)
        score = await model.score(read_context(request), deadline=read_deadline(context), is_bulk=read_is_bulk(request))
        response = ScoreResponse()
        fill_score(response, score, model)
        return response
