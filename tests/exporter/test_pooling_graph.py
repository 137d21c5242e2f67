"""Pooling as ONNX nodes, against plain numpy."""

from pathlib import Path

import numpy as np
import pytest

from hiddenstate_exporter.graphs.graph import write_models
from hiddenstate_exporter.graphs.graph_builder import FLOAT, INT32, GraphBuilder, array_info
from hiddenstate_exporter.graphs.pooling_graph import pool
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.weights import WeightsFile
from hiddenstate_exporter.publishing.onnx_model import open_session


@pytest.mark.parametrize("behind", [0, np.inf, np.nan])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_max_pooling_is_exact_whatever_lies_behind_the_ends(tmp_path: Path, bidirectional: bool, behind: float) -> None:
    shape = StackShape(
        cell="gru", connections="none", input_size=1, hidden_size=7, num_layers=1, bidirectional=bidirectional
    )
    file = WeightsFile()
    builder = GraphBuilder("pool", file, "float32")
    pooled, width = pool(builder, {}, shape, "x", "max")
    builder.name_output(pooled, "pooled")
    model = builder.model(
        inputs=[array_info("x", FLOAT, ["seq", "batch", shape.output_size]), array_info("lengths", INT32, ["batch"])],
        outputs=[array_info("pooled", FLOAT, ["batch", width])],
    )
    session = open_session(tmp_path / write_models(tmp_path, {"pool": model}, file)["pool"])
    rng = np.random.default_rng(0)
    for seq, batch_size in ((1, 1), (1, 4), (9, 1), (2, 3), (20, 33)):
        x = rng.normal(size=(seq, batch_size, width)).astype(np.float32) - 5  # all below the zeros behind the ends
        lengths = rng.integers(1, seq + 1, batch_size).astype(np.int32)
        x[np.arange(seq)[:, None] >= lengths] = behind
        expected = np.stack([x[:length, row].max(axis=0) for row, length in enumerate(lengths)])
        assert session.run(None, {"x": x, "lengths": lengths})[0].tobytes() == expected.tobytes()
