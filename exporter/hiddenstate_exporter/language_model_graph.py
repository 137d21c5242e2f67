"""The two graphs of a language model: `recurrent` runs tokens through the layers, `head` picks the likeliest words.

The state packs h and c of each layer side by side: h_0, c_0, h_1, c_1, ...
"""

import numpy as np
import onnx
from numpy.typing import NDArray

from hiddenstate_exporter.graph_builder import BOOL, FLOAT, INT32, INT64, GraphBuilder, array_info
from hiddenstate_exporter.lstm import LstmShape, embed, lstm_layer, lstm_shape
from hiddenstate_exporter.weights import Weights, WeightsError, tensor


def output_offset(shape: LstmShape) -> int:
    """Returns where in the state the top layer's h lies, which is also the last output."""
    return 2 * (shape.num_layers - 1) * shape.hidden_size


def recurrent_graph(builder: GraphBuilder, weights: Weights) -> onnx.ModelProto:
    """Builds the graph `recurrent`."""
    shape = lstm_shape(weights)
    if shape.bidirectional:
        raise WeightsError(
            "rnn.weight_ih_l0_reverse: a language model may not read the words after the one it predicts"
        )
    outputs, final = _layers(builder, weights, shape, embed(builder, weights, shape))
    builder.name_output(builder.op("Transpose", outputs, perm=[1, 0, 2]), "outputs")
    builder.name_output(builder.op("Concat", *final, axis=1), "next_state")
    return builder.model(
        inputs=[
            array_info("tokens", INT64, ["batch", "seq"]),
            array_info("lengths", INT32, ["batch"]),
            array_info("state", FLOAT, ["batch", shape.state_size]),
        ],
        outputs=[
            array_info("outputs", FLOAT, ["batch", "seq", shape.output_size]),
            array_info("next_state", FLOAT, ["batch", shape.state_size]),
        ],
    )


def head_graph(builder: GraphBuilder, weights: Weights, token_ranks: NDArray[np.int64]) -> onnx.ModelProto:
    """Builds the graph `head`."""
    output_size = lstm_shape(weights).output_size
    log_probs = builder.op("LogSoftmax", _logits(builder, weights, output_size), axis=1)  # [rows, vocab_size]
    top_log_probs, top_ids = _top(builder, log_probs, _ranks(builder, weights, token_ranks))
    token_axis = builder.constant([1])
    target = builder.op("GatherElements", log_probs, builder.op("Unsqueeze", "targets", token_axis), axis=1)
    builder.name_output(top_log_probs, "top_log_probs")
    builder.name_output(top_ids, "top_ids")
    builder.name_output(builder.op("Squeeze", target, token_axis), "target_log_probs")
    return builder.model(
        inputs=[
            array_info("hidden", FLOAT, ["rows", output_size]),
            array_info("k", INT64, [1]),
            array_info("targets", INT64, ["rows"]),
            array_info("restrict", BOOL, []),
            array_info("rank_low", INT64, ["rows"]),
            array_info("rank_high", INT64, ["rows"]),
        ],
        outputs=[
            array_info("top_log_probs", FLOAT, ["rows", "k"]),
            array_info("top_ids", INT64, ["rows", "k"]),
            array_info("target_log_probs", FLOAT, ["rows"]),
        ],
    )


def _layers(builder: GraphBuilder, weights: Weights, shape: LstmShape, x: str) -> tuple[str, list[str]]:
    """Adds all layers; returns the top one's outputs [seq, batch, hidden_size] and the parts of the next state."""
    direction_axis = builder.constant([0])
    sizes = builder.constant([shape.hidden_size] * (2 * shape.num_layers))
    names = [f"{part}_{layer}" for layer in range(shape.num_layers) for part in "hc"]
    parts = builder.ops("Split", "state", sizes, outputs=names, axis=1)  # each [batch, hidden_size]
    initial = [builder.op("Unsqueeze", part, direction_axis) for part in parts]  # each [1, batch, hidden_size]
    final = []
    for layer in range(shape.num_layers):
        start = (initial[2 * layer], initial[2 * layer + 1])
        y, h, c = lstm_layer(builder, weights, layer, shape, x, "lengths", start)
        x = builder.op("Squeeze", y, builder.constant([1]))
        final += [builder.op("Squeeze", part, direction_axis) for part in (h, c)]
    return x, final


def _logits(builder: GraphBuilder, weights: Weights, output_size: int) -> str:
    hidden, width = "hidden", output_size
    if "projection.weight" in weights:
        matrix = tensor(weights, "projection.weight", (None, output_size))
        width = matrix.shape[0]
        hidden = builder.linear("projection", matrix, tensor(weights, "projection.bias", (width,)), hidden)
    vocab_size = tensor(weights, "embedding.weight", (None, None)).shape[0]
    matrix = tensor(weights, "decoder.weight", (vocab_size, width))
    return builder.linear("decoder", matrix, tensor(weights, "decoder.bias", (vocab_size,)), hidden)


def _ranks(builder: GraphBuilder, weights: Weights, token_ranks: NDArray[np.int64]) -> str:
    vocab_size = tensor(weights, "decoder.bias", (None,)).shape[0]
    if token_ranks.shape != (vocab_size,):
        raise WeightsError(f"tokenizer has {token_ranks.size} tokens, the model's vocabulary {vocab_size}")
    return builder.stored("token_ranks", token_ranks.astype(np.int64))


def _top(builder: GraphBuilder, log_probs: str, ranks: str) -> list[str]:
    """Picks the k likeliest tokens. Only a call with `restrict` pays for the mask over the whole vocabulary."""
    restricted, unrestricted = builder.branch("restricted"), builder.branch("unrestricted")
    allowed = restricted.op(
        "And",
        restricted.op("GreaterOrEqual", ranks, restricted.op("Unsqueeze", "rank_low", restricted.constant([1]))),
        restricted.op("Less", ranks, restricted.op("Unsqueeze", "rank_high", restricted.constant([1]))),
    )  # [rows, vocab_size]
    masked = restricted.op("Where", allowed, log_probs, restricted.constant(-np.inf, np.float32))
    return builder.ops(
        "If",
        "restrict",
        outputs=("log_probs", "ids"),
        then_branch=_top_k(restricted, masked),
        else_branch=_top_k(unrestricted, log_probs),
    )


def _top_k(branch: GraphBuilder, log_probs: str) -> onnx.GraphProto:
    top_log_probs, top_ids = branch.ops("TopK", log_probs, "k", outputs=("log_probs", "ids"), axis=1)
    return branch.branch_graph(
        [array_info(top_log_probs, FLOAT, ["rows", "k"]), array_info(top_ids, INT64, ["rows", "k"])]
    )
