"""A sentence encoder by tensors answers as its own service does."""

import numpy as np

from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from serving import Wire
from tensor_requests import request, tensors

SENTENCES = ["I would like to thank you.", "the car", "that is new"]


async def test_sentences_are_encoded_as_by_encode(wire: Wire) -> None:
    answer = await wire.sentence_encoder.Encode(EncodeRequest(sentences=SENTENCES))
    response = await wire.inference.ModelInfer(request("tiny-encoder", {"sentences": SENTENCES}))
    embeddings = tensors(response)["embeddings"]
    assert (embeddings.dtype, embeddings.shape) == (np.dtype(np.float32), (3, 12))
    assert embeddings.tobytes() == answer.embeddings


async def test_a_column_of_sentences_is_read_as_a_list_of_them(wire: Wire) -> None:
    message = request("tiny-encoder", {"sentences": SENTENCES})
    listed = await wire.inference.ModelInfer(message)
    message.inputs[0].shape[:] = [3, 1]
    assert await wire.inference.ModelInfer(message) == listed


async def test_sequence_parameters_do_nothing_to_a_model_without_sequences(wire: Wire) -> None:
    response = await wire.inference.ModelInfer(
        request("tiny-encoder", {"sentences": SENTENCES}, sequence_id=7, sequence_start=False, sequence_end=False)
    )
    assert tensors(response)["embeddings"].shape == (3, 12)
