"""From the hidden state to log probabilities with int8 products.

The narrow vectors that a projection or an adaptive softmax makes have no bound near their usual size, and are scaled
row by row. (To multiply the projection out with the decoder, which leaves one product with a bounded operand, was
slower by a third: an embedding is often half as wide as the hidden state.)
"""

from hiddenstate_exporter.graphs.adaptive_softmax_graph import cluster_names, cluster_sizes, is_adaptive, join_clusters
from hiddenstate_exporter.graphs.quantizer import Quantized, Quantizer
from hiddenstate_exporter.graphs.weights import Weights, tensor


def int8_log_probs(quantizer: Quantizer, weights: Weights, output_size: int, bound: float) -> str:
    """Returns log probabilities [rows, vocab_size] of `hidden` [rows, output_size], which keeps within `bound`."""
    features, width = _features(quantizer, weights, output_size, bound)
    vocab_size = tensor(weights, "embedding.weight", (None, None)).shape[0]
    if is_adaptive(weights):
        return _adaptive(quantizer, weights, features, width, vocab_size)
    matrix = tensor(weights, "decoder.weight", (vocab_size, width))
    logits = quantizer.product("decoder", matrix, features, tensor(weights, "decoder.bias", (vocab_size,)))
    return quantizer.builder.op("LogSoftmax", logits, axis=1)


def _features(quantizer: Quantizer, weights: Weights, output_size: int, bound: float) -> tuple[Quantized, int]:
    """Returns what the decoder reads [rows, width], and its width."""
    hidden = quantizer.quantize("hidden", bound)
    if "projection.weight" not in weights:
        return hidden, output_size
    matrix = tensor(weights, "projection.weight", (None, output_size))
    bias = tensor(weights, "projection.bias", (len(matrix),))
    return quantizer.quantize_rows("projection", quantizer.product("projection", matrix, hidden, bias)), len(matrix)


def _adaptive(quantizer: Quantizer, weights: Weights, features: Quantized, width: int, vocab_size: int) -> str:
    sizes = cluster_sizes(weights, width, vocab_size)
    head_bias = tensor(weights, "decoder.head.bias", (sizes[0] + len(sizes) - 1,))
    head = quantizer.product("decoder.head", weights["decoder.head.weight"], features, head_bias)
    tails = []
    for cluster in range(len(sizes) - 1):
        inner, outer = cluster_names(cluster)
        narrow = quantizer.product(inner, weights[inner], features)
        tails.append(quantizer.product(outer, weights[outer], quantizer.quantize_rows(inner, narrow)))
    return join_clusters(quantizer.builder, sizes, head, tails)
