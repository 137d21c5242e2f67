"""A real gRPC server whose answers a test chooses: for what the client does with orders, errors, garbage and silence.

Every behaviour is an attribute that a test may replace; the defaults answer something that can be told from the
request. What came in is kept in `requests`.
"""

import queue
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn, Self, TypeVar

import grpc
from google.protobuf.message import Message

from hiddenstate.v1 import language_model_pb2 as lm
from hiddenstate.v1 import model_pb2
from hiddenstate.v1 import sentence_encoder_pb2 as se
from hiddenstate.v1.language_model_pb2_grpc import (
    LanguageModelServiceServicer,
    add_LanguageModelServiceServicer_to_server,
)
from hiddenstate.v1.model_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from hiddenstate.v1.sentence_encoder_pb2_grpc import (
    SentenceEncoderServiceServicer,
    add_SentenceEncoderServiceServicer_to_server,
)
from hiddenstate.v1.usage_pb2 import Usage

Reply = TypeVar("Reply")

USAGE = Usage(tokens_computed=4, tokens_reused=3, queue_time_us=20, compute_time_us=1000)
MODELS = (
    model_pb2.Model(
        name="english-lm",
        version="1",
        kind=model_pb2.MODEL_KIND_LANGUAGE_MODEL,
        architecture="LSTM 2x512, tied embeddings",
        vocab_size=20_000,
        parameters=14_400_000,
        provider="CPUExecutionProvider",
        metrics={"perplexity": 85.5},
    ),
    model_pb2.Model(
        name="english-encoder", version="2", kind=model_pb2.MODEL_KIND_SENTENCE_ENCODER, dimension=3, normalized=True
    ),
)


class FakeServer(LanguageModelServiceServicer, SentenceEncoderServiceServicer, ModelServiceServicer):
    """The three services. A text or sentence of `fail CODE why` fails with that code.

    A request that names no context is answered in the same way whether it comes alone or on a stream.
    """

    def __init__(self) -> None:
        self.has_streams = True  # False: as servers that are older than streams
        self.requests: list[Message] = []  # what came alone, each request of no context, and messages of contexts
        self.messages: list[Message] = []  # all that came over streams
        self.arrived = threading.Semaphore(0)  # once for each request
        self.silence = threading.Event()  # set at the end of a test: lets go of calls that answer nothing

    # What tests replace ---------------------------------------------------------------------------------------------

    def predict(self, request: lm.PredictRequest, context: grpc.ServicerContext) -> lm.PredictResponse:
        """Candidates that name the context and count down."""
        return predicted(request, request.text)

    def predict_stream(
        self, messages: Iterable[lm.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[lm.PredictStreamResponse]:
        """Answers with all that was appended to a context so far, and requests of no context as if they came alone."""
        contexts: dict[int, str] = {}

        def answer(request: lm.StreamedPredictRequest) -> lm.StreamedPredictResponse | None:
            return streamed(request, contexts) if request.context_id else None

        def answer_alone(request: lm.StreamedPredictRequest) -> lm.StreamedPredictResponse:
            reply = lm.StreamedPredictResponse(request_id=request.request_id)
            fill(reply, lambda context: self.Predict(request.predict, context))
            return reply

        for replies in self.replies(messages, answer, answer_alone):
            yield lm.PredictStreamResponse(responses=replies)

    def encode_stream(
        self, messages: Iterable[se.EncodeStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[se.EncodeStreamResponse]:
        """Answers each request as if it came alone."""

        def answer_alone(request: se.StreamedEncodeRequest) -> se.StreamedEncodeResponse:
            reply = se.StreamedEncodeResponse(request_id=request.request_id)
            fill(reply, lambda context: self.Encode(request.encode, context))
            return reply

        for replies in self.replies(messages, lambda request: None, answer_alone):
            yield se.EncodeStreamResponse(responses=replies)

    def generate(self, request: lm.GenerateRequest, context: grpc.ServicerContext) -> Iterator[lm.GenerateResponse]:
        """Writes "a , b" and ends."""
        for token_id, word in enumerate(("a", ",", "b")):
            yield lm.GenerateResponse(word=word, token_id=token_id, log_prob=-1.0, usage=USAGE)
        end = lm.GenerateResponse.FINISH_REASON_END_OF_TEXT
        yield lm.GenerateResponse(finish_reason=end, seed=request.seed or 7, state=b"end", usage=USAGE)

    def encode(self, request: se.EncodeRequest, context: grpc.ServicerContext) -> se.EncodeResponse:
        """The vector of a sentence is (its length, its first letter, 1)."""
        return encoded([(len(s), ord(s[0]), 1.0) for s in request.sentences])

    # The services ---------------------------------------------------------------------------------------------------

    def receive(self, request: Message) -> None:
        self.requests.append(request)
        self.arrived.release()

    def replies(
        self, messages: Iterable[Any], answer: Callable[[Any], Reply | None], answer_alone: Callable[[Any], Reply]
    ) -> Iterator[list[Reply]]:
        """Answers requests in order where `answer` does, and all others at the same time, as they are ready."""
        ready: queue.SimpleQueue[list[Reply] | None] = queue.SimpleQueue()

        def take() -> None:
            with suppress(grpc.RpcError), ThreadPoolExecutor(max_workers=8) as pool:
                for message in messages:
                    self.messages.append(message)
                    replies = [answer(request) for request in message.requests]
                    if any(replies):
                        self.receive(message)
                    for request, reply in zip(message.requests, replies, strict=True):
                        if reply is None:
                            pool.submit(lambda request=request: ready.put([answer_alone(request)]))  # type: ignore[misc]
                    if any(replies):
                        ready.put([reply for reply in replies if reply is not None])
            ready.put(None)

        threading.Thread(target=take, daemon=True).start()
        while (replies := ready.get()) is not None:
            yield replies

    def Predict(self, request: lm.PredictRequest, context: grpc.ServicerContext) -> lm.PredictResponse:
        self.receive(request)
        fail_if_told(request.text, context)
        return self.predict(request, context)

    def PredictStream(
        self, request_iterator: Iterable[lm.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[lm.PredictStreamResponse]:
        if not self.has_streams:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return self.predict_stream(request_iterator, context)

    def Generate(self, request: lm.GenerateRequest, context: grpc.ServicerContext) -> Iterator[lm.GenerateResponse]:
        self.receive(request)
        fail_if_told(request.text, context)
        return self.generate(request, context)

    def Score(self, request: lm.ScoreRequest, context: grpc.ServicerContext) -> lm.ScoreResponse:
        self.receive(request)
        fail_if_told(request.text, context)
        tokens = [lm.TokenScore(token=word, token_id=i, log_prob=-2.0) for i, word in enumerate(request.text.split())]
        return lm.ScoreResponse(
            tokens=tokens,
            log_prob=-2.0 * len(tokens),
            perplexity=7.389056,
            usage=USAGE,
            model="english-lm",
            model_version="1",
        )

    def Encode(self, request: se.EncodeRequest, context: grpc.ServicerContext) -> se.EncodeResponse:
        self.receive(request)
        fail_if_told(request.sentences[0], context)
        return self.encode(request, context)

    def EncodeStream(
        self, request_iterator: Iterable[se.EncodeStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[se.EncodeStreamResponse]:
        if not self.has_streams:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return self.encode_stream(request_iterator, context)

    def ListModels(
        self, request: model_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        return model_pb2.ListModelsResponse(models=MODELS)

    def GetModel(self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext) -> model_pb2.GetModelResponse:
        found = [m for m in MODELS if m.name == request.name and request.version in ("", m.version)]
        if not found:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name!r}")
        return model_pb2.GetModelResponse(model=found[0])


class RefusedError(Exception):
    """One request of a stream failed."""


class StreamedContext:
    """What stands for a call's context where a request came over a stream."""

    def __init__(self) -> None:
        self._retry_after_ms = 0

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str]]) -> None:
        self._retry_after_ms = int(dict(metadata)["grpc-retry-pushback-ms"])

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise RefusedError(code, details, self._retry_after_ms)


def fill(reply: Any, answer: Callable[[Any], Any]) -> None:
    """Writes an answer, or why there is none, into the reply to a streamed request."""
    try:
        reply.response.CopyFrom(answer(StreamedContext()))
    except RefusedError as refused:
        code, reply.error.message, reply.error.retry_after_ms = refused.args
        reply.error.code = code.value[0]


class RunningServer:
    """A fake server on a port of this machine."""

    def __init__(
        self, fake: FakeServer, credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0"
    ) -> None:
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16))
        add_LanguageModelServiceServicer_to_server(fake, self._server)
        add_SentenceEncoderServiceServicer_to_server(fake, self._server)
        add_ModelServiceServicer_to_server(fake, self._server)
        port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Breaks off all calls and waits until they are gone."""
        self._server.stop(None).wait()


def fail_if_told(text: str, context: grpc.ServicerContext) -> None:
    command, _, rest = text.partition(" ")
    if command == "fail":
        code, _, why = rest.partition(" ")
        context.abort(grpc.StatusCode[code], why)


def predicted(request: lm.PredictRequest, context: str) -> lm.PredictResponse:
    """Answers candidates `CONTEXT+PREFIX0`, `CONTEXT+PREFIX1`, ... with probabilities 1/2, 1/4, ..."""
    candidates = [
        lm.Candidate(word=f"{context}+{request.prefix}{rank}", log_prob=-0.6931472 * (rank + 1), token_id=rank)
        for rank in range(request.top_k)
    ]
    state = b"state" if request.return_state else b""
    return lm.PredictResponse(candidates=candidates, state=state, usage=USAGE, model="english-lm", model_version="1")


def streamed(request: lm.StreamedPredictRequest, contexts: dict[int, str]) -> lm.StreamedPredictResponse:
    """Appends to the request's context and answers with all of it; a text of `fail` fails and appends nothing."""
    reply = lm.StreamedPredictResponse(request_id=request.request_id)
    if request.predict.text == "fail":
        reply.error.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
        reply.error.message = "text: is not wanted"
    elif request.HasField("predict"):
        contexts[request.context_id] = contexts.get(request.context_id, "") + request.predict.text
        reply.response.CopyFrom(predicted(request.predict, contexts[request.context_id]))
    if request.close_context:
        contexts.pop(request.context_id, None)
    return reply


def encoded(vectors: Sequence[Sequence[float]], *, version: str = "2", truncated: int = 0) -> se.EncodeResponse:
    """Packs vectors [count, dimension] as the contract says."""
    values = [value for vector in vectors for value in vector]
    return se.EncodeResponse(
        embeddings=struct.pack(f"<{len(values)}f", *values),
        count=len(vectors),
        dimension=len(vectors[0]),
        usage=USAGE,
        model="english-encoder",
        model_version=version,
        truncated=truncated,
    )


def fall_silent(fake: FakeServer) -> None:
    """Makes the server answer no prediction until `fake.silence` is set."""

    def predict(request: lm.PredictRequest, context: grpc.ServicerContext) -> lm.PredictResponse:
        fake.silence.wait()
        return lm.PredictResponse()

    fake.predict = predict  # type: ignore[method-assign]


def endless(fake: FakeServer) -> threading.Event:
    """Makes the server generate a word and then nothing until `fake.silence` is set; returns what is set at the end."""
    ended = threading.Event()

    def generate(request: lm.GenerateRequest, context: grpc.ServicerContext) -> Iterator[lm.GenerateResponse]:
        context.add_callback(ended.set)
        yield lm.GenerateResponse(word="a")
        fake.silence.wait()

    fake.generate = generate  # type: ignore[method-assign]
    return ended
