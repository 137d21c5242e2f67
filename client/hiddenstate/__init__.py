"""hiddenstate: next words and sentence vectors from a hiddenstate server.

with hiddenstate.Client("127.0.0.1:50051") as client:
    prediction = client.predict("I would like to thank", top_k=5)
    embeddings = client.encode(["A sentence.", "Another one."])  # float32 [2, dimension]
"""

from hiddenstate.async_client import AsyncClient
from hiddenstate.client import Client
from hiddenstate.credentials import tls_credentials
from hiddenstate.errors import (
    CallCancelledError,
    DeadlineError,
    HiddenstateError,
    InvalidReplyError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelChangedError,
    ModelFailedError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from hiddenstate.generation import AsyncGeneration, Generation
from hiddenstate.predict_stream import AsyncContext, AsyncPredictStream, Context, PredictStream
from hiddenstate.results import (
    Candidate,
    EncodedBatch,
    FinishReason,
    GeneratedWord,
    ModelInfo,
    ModelKind,
    Prediction,
    Score,
    TokenScore,
    Usage,
)
from hiddenstate.text import join_words

__all__ = [
    "AsyncClient",
    "AsyncContext",
    "AsyncGeneration",
    "AsyncPredictStream",
    "CallCancelledError",
    "Candidate",
    "Client",
    "Context",
    "DeadlineError",
    "EncodedBatch",
    "FinishReason",
    "GeneratedWord",
    "Generation",
    "HiddenstateError",
    "InvalidReplyError",
    "InvalidRequestError",
    "MessageTooLargeError",
    "ModelChangedError",
    "ModelFailedError",
    "ModelInfo",
    "ModelKind",
    "ModelNotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "PredictStream",
    "Prediction",
    "Score",
    "TokenScore",
    "UnauthenticatedError",
    "UnavailableError",
    "Usage",
    "join_words",
    "tls_credentials",
]
