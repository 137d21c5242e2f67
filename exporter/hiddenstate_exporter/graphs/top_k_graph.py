"""The k largest values of each row as ONNX nodes, the lowest index first where values are equal.

TopK alone weighs every value. In a long row, all but the k groups with the largest maxima are left out before: whatever
lies in another group comes after k values, those maxima.
"""

from typing import Final

import numpy as np
import onnx

from hiddenstate_exporter.graphs.graph_builder import FLOAT, INT64, GraphBuilder, array_info

# Measured on rows of 20,000 log probabilities: groups of 64 to 128 values take the same time; with k = 40 they save
# little, with 200 they cost half as much again. In rows that are shorter than some 16,000 values a lone one loses more
# by the further nodes than it gains.
_LEAST_GROUPED: Final = 16_000
_MOST_GROUPED_K: Final = 32  # there are more groups than that
_GROUP_SIZES: Final = range(64, 129)
_GROUP_SIZE: Final = 96


def top_k(builder: GraphBuilder, values: str, width: int) -> list[str]:
    """Picks the largest of float32 `values` [rows, width]; how many, the graph's input `k` int64 [1] says.

    Returns:
        The values [rows, k], largest first, and their indices int64 [rows, k].
    """
    if width < _LEAST_GROUPED:
        return _top_k(builder, values)
    few, many = builder.branch("few"), builder.branch("many")
    return builder.ops(
        "If",
        builder.op("LessOrEqual", "k", builder.constant([_MOST_GROUPED_K])),
        outputs=("values", "indices"),
        then_branch=_branch_graph(few, _top_k_of_groups(few, values, width)),
        else_branch=_branch_graph(many, _top_k(many, values)),
    )


def _branch_graph(branch: GraphBuilder, picked: list[str]) -> onnx.GraphProto:
    return branch.branch_graph(
        [array_info(value, dtype, ["rows", "k"]) for value, dtype in zip(picked, (FLOAT, INT64), strict=True)]
    )


def _top_k(builder: GraphBuilder, values: str) -> list[str]:
    return builder.ops("TopK", values, "k", outputs=("values", "indices"), axis=1)


def _top_k_of_groups(builder: GraphBuilder, values: str, width: int) -> list[str]:
    size = _group_size(width)
    count = -(-width // size)
    padded = _pad(builder, values, count * size - width)
    best = _best_groups(builder, builder.op("Reshape", padded, builder.constant([0, count, size])))  # 0 keeps an axis
    members = builder.op("Gather", _indices(builder, count, size), best, axis=0)  # [rows, k, size]
    indices = builder.op("Flatten", members, axis=1)  # ascending
    largest, places = _top_k(builder, builder.op("GatherElements", padded, indices, axis=1))
    return [largest, builder.op("GatherElements", indices, places, axis=1)]


def _group_size(width: int) -> int:
    """Returns a size that divides the row, so that it need not be copied to be padded, if there is one."""
    sizes = [size for size in _GROUP_SIZES if width % size == 0]
    return min(sizes, key=lambda size: abs(size - _GROUP_SIZE), default=_GROUP_SIZE)


def _pad(builder: GraphBuilder, values: str, count: int) -> str:
    """Adds values behind each row that come after all others."""
    if not count:
        return values
    return builder.op("Pad", values, builder.constant([0, 0, 0, count]), builder.constant(-np.inf, np.float32))


def _best_groups(builder: GraphBuilder, groups: str) -> str:
    """Returns the k groups with the largest maxima [rows, k], ascending, as indices are among equals."""
    _, found = _top_k(builder, builder.op("ReduceMax", groups, axes=[2], keepdims=0))
    ascending, _ = builder.ops("TopK", found, "k", outputs=("groups", "places"), axis=1, largest=0)
    return ascending


def _indices(builder: GraphBuilder, count: int, size: int) -> str:
    """Returns the indices of each group's members, int64 [count, size]; ONNX Runtime lists them once, at load."""
    indices = builder.op("Range", builder.constant(0), builder.constant(count * size), builder.constant(1))
    return builder.op("Reshape", indices, builder.constant([count, size]))
