"""The two graphs of a language model: `recurrent` runs tokens through the layers, `head` picks the likeliest words.

The state packs what the layers carry side by side, h_0, c_0, h_1, c_1, ... (no c for cells without one), and ends with
the stack's last output where that is no slice of them.
"""

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.adaptive_softmax_graph import adaptive_log_probs, is_adaptive
from hiddenstate_exporter.graphs.graph_builder import BOOL, FLOAT, INT32, INT64, GraphBuilder, array_info
from hiddenstate_exporter.graphs.stack_graph import embed, last_outputs, stack
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.top_k_graph import top_k
from hiddenstate_exporter.graphs.weights import Weights, WeightsError, tensor

_MAX_VOCAB_SIZE: Final = 1 << 23  # float32 holds what lies half-way between ranks up to there


def recurrent_graph(builder: GraphBuilder, weights: Weights, shape: StackShape) -> onnx.ModelProto:
    """Builds the graph `recurrent`."""
    if shape.bidirectional:
        raise WeightsError(
            "rnn.weight_ih_l0_reverse: a language model may not read the words after the one it predicts"
        )
    x = embed(builder, weights, shape.input_size)
    outputs, final = stack(builder, weights, shape, x, _initial_state(builder, shape))
    builder.name_output(builder.to_float32(builder.op("Transpose", outputs, perm=[1, 0, 2])), "outputs")
    builder.name_output(builder.to_float32(_pack(builder, shape, final, outputs)), "next_state")
    return recurrent_model(builder, shape)


def recurrent_model(builder: GraphBuilder, shape: StackShape) -> onnx.ModelProto:
    """Finishes a graph `recurrent` that has its outputs."""
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


def split_state(builder: GraphBuilder, shape: StackShape, state: str) -> list[list[str]]:
    """Takes a state [batch, state_size] apart: for each layer its parts, each [batch, hidden_size]."""
    names = [f"{part}_{layer}" for layer in range(shape.num_layers) for part in shape.state_parts]
    sizes = [shape.hidden_size] * len(names)
    if shape.keeps_output:  # for the head; the layers do not read it
        names, sizes = [*names, "output"], [*sizes, shape.output_size]
    parts = builder.ops("Split", state, builder.constant(sizes), outputs=names, axis=1)
    count = len(shape.state_parts)
    return [parts[layer * count : (layer + 1) * count] for layer in range(shape.num_layers)]


def head_graph(
    builder: GraphBuilder, weights: Weights, token_ranks: NDArray[np.int64], output_size: int
) -> onnx.ModelProto:
    """Builds the graph `head`."""
    features, width = _features(builder, weights, output_size)
    vocab_size = tensor(weights, "embedding.weight", (None, None)).shape[0]
    if is_adaptive(weights):
        log_probs = adaptive_log_probs(builder, weights, features, width, vocab_size)
    else:
        matrix = tensor(weights, "decoder.weight", (vocab_size, width))
        logits = builder.linear("decoder", matrix, tensor(weights, "decoder.bias", (vocab_size,)), features)
        log_probs = builder.op("LogSoftmax", builder.to_float32(logits), axis=1)  # [rows, vocab_size]
    return head_model(builder, weights, token_ranks, output_size, log_probs)


def head_model(
    builder: GraphBuilder, weights: Weights, token_ranks: NDArray[np.int64], output_size: int, log_probs: str
) -> onnx.ModelProto:
    """Finishes a graph `head` that has log probabilities [rows, vocab_size]."""
    vocab_size = tensor(weights, "embedding.weight", (None, None)).shape[0]
    ranks = _ranks(builder, token_ranks, vocab_size)
    top_log_probs, top_ids = _top(builder, log_probs, ranks, vocab_size)
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


def _initial_state(builder: GraphBuilder, shape: StackShape) -> list[list[str]]:
    """Takes `state` [batch, state_size] apart: for each layer its parts, each [1, batch, hidden_size]."""
    layers = split_state(builder, shape, builder.to_computing("state"))
    return [[builder.op("Unsqueeze", part, builder.constant([0])) for part in layer] for layer in layers]


def _pack(builder: GraphBuilder, shape: StackShape, final: list[list[str]], outputs: str) -> str:
    """Puts the state together again: float32 [batch, state_size]."""
    parts = [builder.op("Squeeze", part, builder.constant([0])) for layer in final for part in layer]
    if shape.keeps_output:
        parts.append(last_outputs(builder, outputs))
    return builder.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _features(builder: GraphBuilder, weights: Weights, output_size: int) -> tuple[str, int]:
    """Returns what the decoder reads, float32 [rows, width], and its width."""
    hidden = builder.to_computing("hidden")
    if "projection.weight" not in weights:
        return hidden, output_size
    matrix = tensor(weights, "projection.weight", (None, output_size))
    width = matrix.shape[0]
    return builder.linear("projection", matrix, tensor(weights, "projection.bias", (width,)), hidden), width


def _ranks(builder: GraphBuilder, token_ranks: NDArray[np.int64], vocab_size: int) -> str:
    """Returns the ranks as float32 [vocab_size]; ONNX Runtime converts them once, at load."""
    if token_ranks.shape != (vocab_size,):
        raise WeightsError(f"tokenizer has {token_ranks.size} tokens, the model's vocabulary {vocab_size}")
    if vocab_size > _MAX_VOCAB_SIZE:
        raise WeightsError(f"the model's vocabulary has {vocab_size} tokens, {_MAX_VOCAB_SIZE} are allowed")
    stored = builder.stored("token_ranks", token_ranks.astype(np.int64))
    return builder.op("Cast", stored, node="token_ranks.float32", to=FLOAT)


def _top(builder: GraphBuilder, log_probs: str, ranks: str, vocab_size: int) -> list[str]:
    """Picks the k likeliest tokens. Only a call with `restrict` pays for the mask over the whole vocabulary."""
    restricted, unrestricted = builder.branch("restricted"), builder.branch("unrestricted")
    masked = _restrict(restricted, log_probs, ranks)
    return builder.ops(
        "If",
        "restrict",
        outputs=("log_probs", "ids"),
        then_branch=_top_k(restricted, masked, vocab_size),
        else_branch=_top_k(unrestricted, log_probs, vocab_size),
    )


def _restrict(branch: GraphBuilder, log_probs: str, ranks: str) -> str:
    """Gives -inf to the tokens whose rank does not lie in rank_low..rank_high-1.

    All in float32, which takes two fifths of the time of comparisons and Where: the distances to ends half-way between
    ranks are never 0, and their product is positive just inside; times infinity, it is the most that a token may have.
    """
    below = branch.op("Sub", ranks, _end(branch, "rank_low"))  # [rows, vocab_size]
    high = branch.op("Max", "rank_low", "rank_high")  # in a range that ends before it begins lies nothing
    above = branch.op("Sub", _end(branch, high), ranks)
    limit = branch.op("Mul", branch.op("Mul", below, above), branch.constant(np.inf, np.float32))
    return branch.op("Min", log_probs, limit)


def _end(branch: GraphBuilder, ranks: str) -> str:
    """Returns the number half a rank below each rank int64 [rows]: float32 [rows, 1]."""
    column = branch.op("Cast", branch.op("Unsqueeze", ranks, branch.constant([1])), to=FLOAT)
    return branch.op("Sub", column, branch.constant(0.5, np.float32))


def _top_k(branch: GraphBuilder, log_probs: str, vocab_size: int) -> onnx.GraphProto:
    top_log_probs, top_ids = top_k(branch, log_probs, vocab_size)
    return branch.branch_graph(
        [array_info(top_log_probs, FLOAT, ["rows", "k"]), array_info(top_ids, INT64, ["rows", "k"])]
    )
