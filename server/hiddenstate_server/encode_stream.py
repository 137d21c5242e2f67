"""What one EncodeStream answers."""

from hiddenstate.v1.sentence_encoder_pb2 import (
    EncodeStreamResponse,
    StreamedEncodeRequest,
    StreamedEncodeResponse,
)
from hiddenstate_server.messages import fill_encoding, read_truncate
from hiddenstate_server.repository import Repository
from hiddenstate_server.results import Encoding
from hiddenstate_server.sentence_encoder import SentenceEncoder
from hiddenstate_server.streams import Lane

Answer = tuple[SentenceEncoder, Encoding]


class EncodeRequests:
    """Answers the requests of one stream, none of which waits for another."""

    def __init__(self, repository: Repository, *, deadline: float) -> None:
        self._repository = repository
        self._deadline = deadline

    def new_message(self) -> EncodeStreamResponse:
        """Returns an empty message for replies."""
        return EncodeStreamResponse()

    def weight(self, request: StreamedEncodeRequest) -> int:
        """Counts sentences: each takes a vector's memory until the reply is written."""
        return max(1, len(request.encode.sentences))

    def lane(self, request: StreamedEncodeRequest) -> Lane[StreamedEncodeRequest] | None:
        """Returns None: no request waits for another."""
        return None

    async def answer(self, request: StreamedEncodeRequest, lane: Lane[StreamedEncodeRequest] | None) -> Answer:
        """Encodes the sentences of a request.

        Raises:
            ServingError: see errors.py.
        """
        encode = request.encode
        model = self._repository.sentence_encoder(encode.model, encode.model_version)
        encoding = await model.encode(encode.sentences, truncate=read_truncate(encode), deadline=self._deadline)
        return model, encoding

    def fill(self, reply: StreamedEncodeResponse, answer: Answer) -> int:
        """Writes an answer and returns about how many bytes it has."""
        model, encoding = answer
        fill_encoding(reply.response, encoding, model)
        return 64 + encoding.embeddings.nbytes
