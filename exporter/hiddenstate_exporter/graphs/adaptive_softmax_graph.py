"""The adaptive softmax as ONNX nodes: the whole row of log probabilities, every cluster computed."""

from collections.abc import Sequence

from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.weights import Weights, WeightsError, tensor


def is_adaptive(weights: Weights) -> bool:
    """Tells whether a language model's weights end in an adaptive softmax."""
    return "decoder.head.weight" in weights


def adaptive_log_probs(builder: GraphBuilder, weights: Weights, features: str, width: int, vocab_size: int) -> str:
    """Adds `adaptive_softmax.AdaptiveSoftmax`: features [rows, width] give log probabilities [rows, vocab_size]."""
    sizes = cluster_sizes(weights, width, vocab_size)
    head_bias = tensor(weights, "decoder.head.bias", (sizes[0] + len(sizes) - 1,))
    head = builder.to_float32(builder.linear("decoder.head", weights["decoder.head.weight"], head_bias, features))
    tails = []
    for cluster in range(len(sizes) - 1):
        inner, outer = cluster_names(cluster)
        narrow = builder.product(inner, weights[inner], features)
        tails.append(builder.to_float32(builder.product(outer, weights[outer], narrow)))
    return join_clusters(builder, sizes, head, tails)


def join_clusters(builder: GraphBuilder, sizes: Sequence[int], head: str, tails: Sequence[str]) -> str:
    """Makes log probabilities [rows, vocab_size] of the logits of the head and of each cluster behind it."""
    words, *shares = builder.ops(
        "Split",
        builder.op("LogSoftmax", head, axis=1),
        builder.constant([sizes[0]] + [1] * len(tails)),
        outputs=("words", *(f"cluster_{cluster}" for cluster in range(len(tails)))),
        axis=1,
    )
    parts = [
        builder.op("Add", share, builder.op("LogSoftmax", logits, axis=1))
        for share, logits in zip(shares, tails, strict=True)
    ]
    return builder.op("Concat", words, *parts, axis=1)


def cluster_sizes(weights: Weights, width: int, vocab_size: int) -> list[int]:
    """Returns how many words the head and each cluster behind it have, and checks their tensors."""
    sizes: list[int] = []
    while cluster_names(len(sizes))[1] in weights:
        inner, outer = cluster_names(len(sizes))
        narrow = tensor(weights, inner, (None, width)).shape[0]
        sizes.append(tensor(weights, outer, (None, narrow)).shape[0])
    rows = tensor(weights, "decoder.head.weight", (None, width)).shape[0]
    words = rows - len(sizes)
    if words + sum(sizes) != vocab_size:
        raise WeightsError(
            f"tensor 'decoder.head.weight' has {rows} rows, which with {len(sizes)} clusters of {sum(sizes)} words "
            f"does not make a vocabulary of {vocab_size}"
        )
    return [words, *sizes]


def cluster_names(cluster: int) -> tuple[str, str]:
    """Returns the two products of a cluster: features to its narrow vectors, and those to its words."""
    return f"decoder.tail.{cluster}.0.weight", f"decoder.tail.{cluster}.1.weight"
