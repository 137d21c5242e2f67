"""Runs int8 graphs and looks whether what their products read keeps within its bounds; float16 ones, for overflows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hiddenstate_exporter.publishing.onnx_model import PROVIDER
from hiddenstate_server.bundle import Bundle, StateBound, Variant

BATCH_SIZE: Final = 64
SEQ_LEN: Final = 40
ROUNDING: Final = 1e-6  # relative; a sum of float32 products that lies between two values may miss them by so much

Watch = Callable[[onnx.GraphProto], Mapping[str, int]]  # values of a graph to look at: name -> element type


class BoundError(ValueError):
    """An activation left its bound, so that rounding cut it off, or float16; the message names it."""


def check_activation_bounds(folder: Path, bundle: Bundle, variant: Variant) -> None:
    """Runs random tokens from random states through the graphs that have bounded values.

    Raises:
        BoundError: a value is larger than `variant.activation_bounds` says.
    """
    for graph, largest in activations(folder, bundle, variant).items():
        for name, value in largest.items():
            bound = variant.activation_bounds[name]
            if not value <= bound * (1 + ROUNDING):
                raise BoundError(f"{name} of the graph {graph} reaches {value:.4g}, its bound is {bound:.4g}")


def activations(folder: Path, bundle: Bundle, variant: Variant) -> dict[str, dict[str, float]]:
    """Returns the largest absolute values met: graph -> value of `variant.activation_bounds` -> magnitude."""

    def bounded(graph: onnx.GraphProto) -> dict[str, int]:
        made = {output for node in graph.node for output in node.output}
        return {name: onnx.TensorProto.FLOAT for name in variant.activation_bounds if name in made}

    return _largest(folder, bundle, variant.graphs, variant.state_bounds, bounded)


def check_float16_values(
    folder: Path, bundle: Bundle, graphs: Mapping[str, str], state_bounds: Sequence[StateBound]
) -> None:
    """Runs random tokens from random states through float16 graphs.

    Raises:
        BoundError: a weight carries a value out of float16.
    """
    for graph, largest in _largest(folder, bundle, graphs, state_bounds, _float16_results).items():
        for name, value in largest.items():
            if not np.isfinite(value):
                weights = _float16_inputs(onnx.load(folder / graphs[graph], load_external_data=False).graph)
                raise BoundError(
                    f"{', '.join(weights.get(name, [name]))} of the graph {graph} lead to values beyond "
                    f"{np.finfo(np.float16).max:,.0f}, the most that float16 holds"
                )


def _float16_results(graph: onnx.GraphProto) -> dict[str, int]:
    """Returns what is computed with float16 weights."""
    return dict.fromkeys(_float16_inputs(graph), onnx.TensorProto.FLOAT16)


def _float16_inputs(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """Returns for each value that is computed with float16 weights their names."""
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    return {
        output: [name for name in node.input if name in weights]
        for node in graph.node
        if weights & {*node.input}
        for output in node.output
    }


def _largest(
    folder: Path, bundle: Bundle, graphs: Mapping[str, str], state_bounds: Sequence[StateBound], watch: Watch
) -> dict[str, dict[str, float]]:
    """Runs random tokens from random states; returns the largest absolute values: graph -> value -> magnitude."""
    rng = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {
        "tokens": rng.integers(bundle.vocab_size, size=(BATCH_SIZE, SEQ_LEN)),
        "lengths": rng.integers(1, SEQ_LEN, size=BATCH_SIZE, endpoint=True).astype(np.int32),
    }
    feed["lengths"][0] = SEQ_LEN
    if bundle.sentence_encoder is not None:
        return {"encoder": _run(folder / graphs["encoder"], watch, ["embeddings"], feed)[0]}
    assert bundle.language_model is not None  # one of both is there
    feed["state"] = _draw_state(bundle.language_model.state_size, state_bounds, rng)
    recurrent, (outputs,) = _run(folder / graphs["recurrent"], watch, ["outputs"], feed)
    hidden = outputs[:, -1]  # [batch, output_size]
    head, _ = _run(folder / graphs["head"], watch, ["top_ids"], _question(hidden))
    return {"recurrent": recurrent, "head": {"hidden": float(np.abs(hidden).max()), **head}}


def _run(
    path: Path, watch: Watch, outputs: list[str], feed: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, float], list[Any]]:
    """Runs a graph; returns the largest absolute values that are watched by name, and some of its outputs."""
    model = onnx.load(path, load_external_data=False)
    watched = watch(model.graph)
    names = list(watched)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, watched[name], None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    values = session.run([*names, *outputs], dict(feed))
    largest = {name: float(np.abs(value).max()) for name, value in zip(names, values, strict=False)}
    return largest, values[len(names) :]


def _question(hidden: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    zeros = np.zeros(len(hidden), np.int64)
    restrict = {"restrict": np.array(False), "rank_low": zeros, "rank_high": zeros}
    return {"hidden": hidden, "k": np.ones(1, np.int64), "targets": zeros, **restrict}


def _draw_state(state_size: int, bounds: Sequence[StateBound], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draws states [batch, state_size] that fill their bounds; what has none is larger."""
    state = rng.normal(0, 3, (BATCH_SIZE, state_size))
    for part in bounds:
        columns = slice(part.offset, part.offset + part.size)
        state[:, columns] = rng.uniform(-part.bound, part.bound, (BATCH_SIZE, part.size))
    return state.astype(np.float32)
