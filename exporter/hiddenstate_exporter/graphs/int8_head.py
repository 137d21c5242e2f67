"""From the hidden state to log probabilities with int8 products.

A projection before the decoder is multiplied out with the decoder's weights: what it gives has no bound near its usual
size, and would be left with few of its 8 bits. The narrow vectors of an adaptive softmax are worth keeping, so those
are rounded to twice 8 bits.
"""

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.adaptive_softmax_graph import cluster_names, cluster_sizes, is_adaptive, join_clusters
from hiddenstate_exporter.graphs.quantization import product_bound
from hiddenstate_exporter.graphs.quantizer import Quantized, Quantizer
from hiddenstate_exporter.graphs.weights import Weights, tensor

Linear = tuple[NDArray[np.float64], NDArray[np.float64]]  # weights [out, in] and bias [out]


def int8_log_probs(quantizer: Quantizer, weights: Weights, output_size: int, bound: float) -> str:
    """Returns log probabilities [rows, vocab_size] of `hidden` [rows, output_size], which keeps within `bound`."""
    rows = quantizer.quantize("hidden", bound)
    vocab_size = tensor(weights, "embedding.weight", (None, None)).shape[0]
    if is_adaptive(weights):
        return _adaptive(quantizer, weights, rows, output_size, vocab_size)
    decoder = tensor(weights, "decoder.weight", (vocab_size, _width(weights, output_size)))
    matrix, bias = _projected(weights, decoder, tensor(weights, "decoder.bias", (vocab_size,)))
    logits = quantizer.product("decoder", matrix, rows, bias)
    return quantizer.builder.op("LogSoftmax", logits, axis=1)


def _adaptive(quantizer: Quantizer, weights: Weights, rows: Quantized, output_size: int, vocab_size: int) -> str:
    sizes = cluster_sizes(weights, _width(weights, output_size), vocab_size)
    head_bias = tensor(weights, "decoder.head.bias", (sizes[0] + len(sizes) - 1,))
    matrix, bias = _projected(weights, weights["decoder.head.weight"], head_bias)
    head = quantizer.product("decoder.head", matrix, rows, bias)
    tails = []
    for cluster in range(len(sizes) - 1):
        inner, outer = cluster_names(cluster)
        matrix, bias = _projected(weights, weights[inner], np.zeros(len(weights[inner])))
        narrow = quantizer.product(inner, matrix, rows, bias)
        tails.append(quantizer.fine_product(outer, weights[outer], narrow, product_bound(matrix, bias, rows.bound)))
    return join_clusters(quantizer.builder, sizes, head, tails)


def _width(weights: Weights, output_size: int) -> int:
    """Returns the width of what the decoder reads."""
    if "projection.weight" not in weights:
        return output_size
    return len(tensor(weights, "projection.weight", (None, output_size)))


def _projected(weights: Weights, matrix: NDArray[np.floating], bias: NDArray[np.floating]) -> Linear:
    """Returns a linear map multiplied out with the projection before it, if there is one."""
    wide, shift = matrix.astype(np.float64), bias.astype(np.float64)
    if "projection.weight" not in weights:
        return wide, shift
    return wide @ weights["projection.weight"], shift + wide @ tensor(weights, "projection.bias", (wide.shape[1],))
