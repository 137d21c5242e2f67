"""hiddenstate.v1.SentenceEncoderService: messages to plain values, the model's vectors to messages."""

from collections.abc import AsyncIterator

from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest, EncodeStreamRequest
from hiddenstate.v1.sentence_encoder_pb2_grpc import SentenceEncoderServiceServicer
from hiddenstate_server.call_metrics import CallMetrics
from hiddenstate_server.config import Settings
from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.encode_stream import EncodeRequests
from hiddenstate_server.interceptor import Context
from hiddenstate_server.messages import read_deadline, read_is_bulk, read_truncate
from hiddenstate_server.repository import Repository
from hiddenstate_server.security.metering import metered
from hiddenstate_server.streams import Stream


class SentenceEncoderService(SentenceEncoderServiceServicer):
    """Its methods raise errors.ServingError, which the interceptor makes a status."""

    def __init__(
        self, repository: Repository, *, settings: Settings, running: RunningCalls, metrics: CallMetrics
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._running = running
        self._streamed = metrics.of_request("EncodeStream")
        self._unread = metrics.unread.labels("EncodeStream")

    async def Encode(  # type: ignore[override]  # noqa: N802 - returns the message's bytes
        self, request: EncodeRequest, context: Context
    ) -> bytes:
        model = self._repository.sentence_encoder(request.model, request.model_version)
        work = await model.encoding(
            request.sentences, read_truncate(request), read_deadline(context), read_is_bulk(request)
        )
        await model.scheduler.run_all(work.works)
        return model.response(work)

    async def EncodeStream(  # type: ignore[override]  # noqa: N802 - writes to the context instead of yielding
        self, request_iterator: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> None:
        await Stream(
            context,
            metered(EncodeRequests(self._repository, deadline=read_deadline(context))),
            running=self._running,
            series=self._streamed,
            unread=self._unread,
            max_pending=self._settings.max_stream_pending,
        ).run()
