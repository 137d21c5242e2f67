"""No model at all: answers Encode and PredictStream at once, on the same wire. What a load can do against this server
bounds what it can measure of any other."""

from typing import Any

import grpc
import uvloop

from hiddenstate.v1.language_model_pb2 import PredictStreamRequest, PredictStreamResponse
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest, EncodeResponse, EncodeStreamRequest, EncodeStreamResponse

_VECTOR = bytes(4 * 512)
_CANDIDATES = [{"word": f"w{number}", "log_prob": -1.0, "token_id": number} for number in range(5)]


async def _encode(request: EncodeRequest, context: object) -> EncodeResponse:
    return EncodeResponse(embeddings=_VECTOR, count=1, dimension=512)


async def _encode_stream(requests: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
    while (message := await context.read()) is not grpc.aio.EOF:
        response = EncodeStreamResponse()
        for request in message.requests:
            reply = response.responses.add(request_id=request.request_id).response
            reply.embeddings, reply.count, reply.dimension = _VECTOR, 1, 512
        await context.write(response)


async def _predict_stream(requests: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
    while (message := await context.read()) is not grpc.aio.EOF:
        response = PredictStreamResponse()
        for request in message.requests:
            reply = response.responses.add(request_id=request.request_id).response
            for candidate in _CANDIDATES:
                reply.candidates.add(**candidate)
        await context.write(response)


async def serve() -> None:
    """Serves until it is ended."""
    server = grpc.aio.server()
    encode: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Encode": grpc.unary_unary_rpc_method_handler(
            _encode, EncodeRequest.FromString, EncodeResponse.SerializeToString
        ),
        "EncodeStream": grpc.stream_stream_rpc_method_handler(
            _encode_stream, EncodeStreamRequest.FromString, EncodeStreamResponse.SerializeToString
        ),
    }
    predict: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "PredictStream": grpc.stream_stream_rpc_method_handler(
            _predict_stream, PredictStreamRequest.FromString, PredictStreamResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler("hiddenstate.v1.SentenceEncoderService", encode),
            grpc.method_handlers_generic_handler("hiddenstate.v1.LanguageModelService", predict),
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
