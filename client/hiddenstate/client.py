"""The client for threads."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from hiddenstate.connection import (
    DEFAULT_KEEPALIVE_S,
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_TIMEOUT_S,
    Connection,
    channel_options,
)
from hiddenstate.credentials import check_api_key, check_credentials, with_api_key
from hiddenstate.encoding import at_least_one, encode_calls, stack
from hiddenstate.endpoints import DEFAULT_ADDRESS
from hiddenstate.errors import InvalidRequestError
from hiddenstate.exits import close_at_exit
from hiddenstate.forks import begin_anew_in_forks, leave_behind
from hiddenstate.generation import Generation
from hiddenstate.predict_stream import PredictStream
from hiddenstate.replies import read_embeddings, read_model, read_prediction, read_score
from hiddenstate.requests import (
    encode_requests,
    fits_one_request,
    generate_request,
    model_request,
    naming_arguments,
    score_request,
)
from hiddenstate.results import EncodedBatch, ModelInfo, Prediction, Priority, Score, State
from hiddenstate.retries import patiently
from hiddenstate.sentence_errors import among_all
from hiddenstate.shared_streams import predict_stream, shared_encodings, shared_predictions
from hiddenstate.streamed_requests import encoding, prediction, wrapped_encoding
from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceStub
from hiddenstate.v1.model_pb2 import ListModelsRequest
from hiddenstate.v1.model_pb2_grpc import ModelServiceStub
from hiddenstate.v1.sentence_encoder_pb2_grpc import SentenceEncoderServiceStub

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Client:
    """Calls a hiddenstate server. Any number of threads may share one client.

    Every call may raise any HiddenstateError (see `hiddenstate.errors`); its `code` is the gRPC status. Calls that
    found no server are tried again for about a second first, and those that an overloaded server asks to come again
    are: all of them can safely be made twice. Concurrent predictions, and concurrent encodings, share the messages of
    one stream for each server.
    """

    def __init__(
        self,
        address: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str | None = None,
        keepalive_s: float = DEFAULT_KEEPALIVE_S,
    ) -> None:
        """Prepares the connection; it is made with the first call.

        Args:
            address: HOST:PORT of the server, or an address with a gRPC scheme, for example unix:/run/hiddenstate.sock.
                A list of HOST:PORT, or a name with several addresses, is of servers that do the same: they take
                turns, and where one fails the others go on.
            timeout_s: The most that a call may take, unless it has its own; None sets no limit.
            max_message_bytes: The largest request or reply, at least 1.
            credentials: For a server that speaks TLS: `hiddenstate.tls_credentials()`. None speaks plain text.
                The certificates of a list of servers must all have the name of the first.
            api_key: For a server that asks for keys. Without TLS, everybody on the way can read it.
            keepalive_s: After so many seconds of silence while calls run, a ping finds out whether the server is there.

        Raises:
            ValueError: an address is not one, none of several names can be found, timeout_s, keepalive_s or
                max_message_bytes is not above 0, the key cannot be one, or an argument is of another type.
        """
        self._connection = Connection(address, timeout_s, max_message_bytes)
        self._options = channel_options(max_message_bytes, self._connection.endpoints, keepalive_s)
        self._credentials = check_credentials(credentials)
        self._api_key = check_api_key(api_key)
        self._connect()
        begin_anew_in_forks(self)
        close_at_exit(self)

    def begin_anew(self) -> None:
        """Makes another connection. For forked processes: the threads that served the old one stayed in the parent."""
        leave_behind(self._channel, self._predictions, self._encodings)
        self._connect()

    def _connect(self) -> None:
        channel = (
            grpc.insecure_channel(self._connection.endpoints.target, self._options)
            if self._credentials is None
            else grpc.secure_channel(self._connection.endpoints.target, self._credentials, self._options)
        )
        self._channel: grpc.Channel = with_api_key(channel, self._api_key)
        self._language_model = LanguageModelServiceStub(self._channel)
        self._sentence_encoder = SentenceEncoderServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._predictions = shared_predictions(self._connection, self._channel, self._language_model)
        self._encodings = shared_encodings(self._connection, self._channel, self._sentence_encoder)

    def predict(
        self,
        text: str | None = None,
        *,
        tokens: Iterable[int] | None = None,
        top_k: int = 5,
        prefix: str = "",
        state: State | None = None,
        return_state: bool = False,
        model: str = "",
        model_version: str = "",
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Answers the likeliest next words after a context.

        Args:
            text: The context; an empty one asks for the first word of a text.
            tokens: The context as token ids, in place of text.
            top_k: How many candidates to answer.
            prefix: The letters of the word being typed: only words that begin with them are candidates.
            state: From an earlier prediction of the same model version; the context is appended to what it remembers.
            return_state: Whether the prediction carries the state after the context.
            model: Name of the model; empty takes the server's only language model.
            model_version: Its version; empty takes the newest.
            priority: "interactive" (the default) or "bulk": what is bulk waits while anything interactive does.
            timeout_s: The most that this call may take; None takes the client's.
        """
        request = prediction(
            text,
            tokens=tokens,
            top_k=top_k,
            prefix=prefix,
            state=state,
            return_state=return_state,
            model=model,
            model_version=model_version,
            priority=priority,
        )
        return read_prediction(self._predictions.ask(request, self._connection.timeout(timeout_s)))

    def open_stream(self) -> PredictStream:
        """Opens a stream of predictions whose contexts keep their state: each call sends only what is new."""
        return PredictStream(self._connection, predict_stream(self._channel))

    def generate(
        self,
        text: str | None = None,
        *,
        tokens: Iterable[int] | None = None,
        max_tokens: int = 50,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop_words: Sequence[str] = (),
        state: State | None = None,
        return_state: bool = False,
        model: str = "",
        model_version: str = "",
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> Generation:
        """Continues a context word by word: iterate over the result, or take its `text()`.

        Args:
            text: The context.
            tokens: The context as token ids, in place of text.
            max_tokens: The most tokens to generate.
            temperature: Divides the logits: 0 always takes the likeliest word, 1 samples the model's distribution.
            top_k: Samples among this many likeliest words only; None takes as many as the model allows.
            top_p: Samples among the likeliest words that together hold this much probability; None takes all.
            seed: The same request with the same seed gives the same text; None draws one (see `Generation.seed`).
            stop_words: Words that end the text; the one that was met is the last word.
            state: From an earlier reply of the same model version, to continue from.
            return_state: Whether the state after the last word is wanted (see `Generation.state`).
            model: Name of the model; empty takes the server's only language model.
            model_version: Its version; empty takes the newest.
            priority: "interactive" (the default) or "bulk": what is bulk waits while anything interactive does.
            timeout_s: The most that the whole text may take; None takes the client's.
        """
        request = generate_request(
            text,
            tokens=tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop_words=stop_words,
            state=state,
            return_state=return_state,
            model=model,
            model_version=model_version,
            priority=priority,
        )
        return Generation(
            self._connection,
            lambda request, left_s: self._language_model.Generate(request, timeout=left_s),
            request,
            self._connection.timeout(timeout_s),
        )

    def score(
        self,
        text: str | None = None,
        *,
        tokens: Iterable[int] | None = None,
        state: State | None = None,
        model: str = "",
        model_version: str = "",
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> Score:
        """Answers the log probability of every token of a text, and its perplexity.

        Args:
            text: What to score.
            tokens: The same as token ids, in place of text.
            state: From an earlier reply of the same model version: the text is scored as its continuation.
            model: Name of the model; empty takes the server's only language model.
            model_version: Its version; empty takes the newest.
            priority: "interactive" (the default) or "bulk": what is bulk waits while anything interactive does.
            timeout_s: The most that this call may take; None takes the client's.
        """
        request = score_request(
            text, tokens=tokens, state=state, model=model, model_version=model_version, priority=priority
        )
        response = patiently(
            self._connection,
            lambda left_s: self._language_model.Score(request, timeout=left_s),
            self._connection.timeout(timeout_s),
        )
        return read_score(response)

    def encode(
        self,
        sentences: Iterable[str] | str,
        *,
        batch_size: int = 256,
        truncate: bool = True,
        model: str = "",
        model_version: str = "",
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> "NDArray[np.float32]":
        """Encodes any number of sentences: float32 [n, dimension], in their order; [1, dimension] for a single str.

        Args:
            sentences: None of them may be empty. No sentences at all give [0, dimension].
            batch_size: The most sentences of one call; four calls are under way at a time.
            truncate: Whether a sentence longer than the model's max_seq_length is cut at its end rather than refused.
            model: Name of the model; empty takes the server's only sentence encoder.
            model_version: Its version; empty takes the newest.
            priority: "interactive" (the default) or "bulk": what is bulk waits while anything interactive does.
            timeout_s: The most that each call of a batch may take; None takes the client's.
        """
        wanted, count = at_least_one(sentences)
        if fits_one_request(wanted, batch_size):
            request = encoding(wanted, truncate=truncate, model=model, model_version=model_version, priority=priority)
            try:
                response = self._encodings.ask(request, self._connection.timeout(timeout_s))
            except InvalidRequestError as error:
                raise among_all(error, 0) from error.__cause__
            embeddings = read_embeddings(response, len(wanted))
            return embeddings if count else embeddings[:0]
        batches = self.encode_batches(
            wanted,
            batch_size=batch_size,
            truncate=truncate,
            model=model,
            model_version=model_version,
            priority=priority,
            timeout_s=timeout_s,
        )
        return stack(list(batches), count)

    def encode_batches(
        self,
        sentences: Iterable[str],
        *,
        batch_size: int = 256,
        truncate: bool = True,
        model: str = "",
        model_version: str = "",
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[EncodedBatch]:
        """Encodes more sentences than memory holds: takes them as they are needed, yields their vectors in order.

        Args: those of `encode`.
        """
        timeout_s = self._connection.timeout(timeout_s)
        requests = encode_requests(
            sentences,
            batch_size=batch_size,
            truncate=truncate,
            model=model,
            model_version=model_version,
            priority=priority,
        )
        return encode_calls(
            self._connection,
            requests,
            lambda request: self._encodings.begin(wrapped_encoding(request), timeout_s),
        )

    def models(self, *, timeout_s: float | None = None) -> tuple[ModelInfo, ...]:
        """Lists the models that are served, by name and version."""
        response = patiently(
            self._connection,
            lambda left_s: self._models.ListModels(ListModelsRequest(), timeout=left_s),
            self._connection.timeout(timeout_s),
        )
        return tuple(read_model(model) for model in response.models)

    def model(self, name: str, version: str = "", *, timeout_s: float | None = None) -> ModelInfo:
        """Describes one model; an empty version takes the newest. Raises ModelNotFoundError if it is not served."""
        request = model_request(name, version)
        with naming_arguments():
            response = patiently(
                self._connection,
                lambda left_s: self._models.GetModel(request, timeout=left_s),
                self._connection.timeout(timeout_s),
            )
        return read_model(response.model)

    def close(self) -> None:
        """Closes the connection. Calls that still run fail with CallCancelledError."""
        self._connection.closed = True
        self._predictions.close()
        self._encodings.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
