"""Whether rows go together is found out, not assumed."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hiddenstate_server.errors import BundleError
from onnx_graphs import (
    INT64,
    dynamic_int8,
    neighbours_matter,
    node,
    port,
    stateful_lstm,
    tagger,
    times_factor,
    write_graph,
)
from tensor_serving import load, served


@pytest.mark.parametrize("make", [tagger, times_factor, stateful_lstm])
async def test_rows_go_together_where_they_answer_alike(make: Callable[[Path], Path], tmp_path: Path) -> None:
    async with served(make(tmp_path)) as model:
        assert model.max_batch_size == 128
        assert model.batching.reason == "a row gives the same alone and beside others"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (neighbours_matter, "output 'y' of a row differs by .* beside others, with values up to"),
        (dynamic_int8, "output 'y' of a row differs by .* beside others, with values up to"),
    ],
)
async def test_rows_that_change_each_others_answers_go_alone_unless_the_config_says_otherwise(
    make: Callable[..., Path], reason: str, tmp_path: Path
) -> None:
    async with served(make(tmp_path / "auto")) as model:
        assert model.max_batch_size == 0
        assert re.match(reason, model.batching.reason)
    async with served(make(tmp_path / "on", config='batching = "on"\nmax_batch = 7')) as model:
        assert model.max_batch_size == 7
        assert re.match("config.toml turns batching on, although " + reason, model.batching.reason)


async def test_an_open_first_axis_may_be_time(tmp_path: Path) -> None:
    folder = write_graph(
        tmp_path,
        [node("CumSum", ["x", "axis"], ["y"])],
        [port("x", ["length", 2])],
        [port("y", ["length", 2])],
        {"axis": np.array(0)},
    )
    async with served(folder) as model:
        assert model.max_batch_size == 0
        assert (await model.infer({"x": np.ones((3, 2), np.float32)}))["y"][:, 0].tolist() == [1, 2, 3]


async def test_the_config_turns_batching_off(tmp_path: Path) -> None:
    async with served(tagger(tmp_path, config='batching = "off"')) as model:
        assert (model.max_batch_size, model.batching.reason) == (0, "config.toml turns batching off")


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([port("x", [1, 2])], [port("y", [1, 2])], "axis 0 of 'x', [1, 2], does not take any number of rows"),
        ([port("x", ["n", 2])], [port("y", [4, 2])], "axis 0 of 'y', [4, 2], does not take any number of rows"),
        ([port("x", [])], [port("y", [])], "no input has a batch axis"),
    ],
)
async def test_a_port_without_a_batch_axis_is_named_and_refused_where_batching_is_demanded(
    inputs: list[object], outputs: list[object], reason: str, tmp_path: Path
) -> None:
    nodes = [node("Identity", ["x"], ["y"])]
    async with served(write_graph(tmp_path / "auto", nodes, inputs, outputs)) as model:
        assert (model.max_batch_size, model.batching.reason) == (0, reason)
    folder = write_graph(tmp_path / "on", nodes, inputs, outputs, config='batching = "on"')
    with pytest.raises(BundleError) as caught:
        load(folder)
    assert f"batching: is on, but {reason}; say in config.toml which axis it is, or turn it off" in str(caught.value)


async def test_an_output_that_turns_out_to_have_no_batch_axis_is_refused_where_batching_is_demanded(
    tmp_path: Path,
) -> None:
    def write(name: str, config: str = "") -> Path:
        nodes = [node("ReduceSum", ["x"], ["y"], keepdims=0)]
        return write_graph(tmp_path / name, nodes, [port("x", ["n", 2])], [port("y", None)], config=config)

    async with served(write("auto")) as model:
        assert model.batching.reason == "output 'y' of 8 rows has shape [], without them on axis 0"
    with pytest.raises(BundleError, match=r"batching: is on, but output 'y' of 8 rows has shape \[\], without"):
        load(write("on", 'batching = "on"'))


async def test_inputs_whose_batch_axes_have_different_names_do_not_go_together(tmp_path: Path) -> None:
    folder = write_graph(
        tmp_path,
        [node("Add", ["x", "z"], ["y"])],
        [port("x", ["left", 2]), port("z", ["right", 2])],
        [port("y", ["left", 2])],
    )
    async with served(folder) as model:
        assert model.batching.reason == "the batch axis is 'left' of 'x', but 'right' of 'z'"


async def test_a_graph_that_cannot_be_tried_says_what_to_declare_and_the_declared_range_helps(tmp_path: Path) -> None:
    def write(name: str, config: str = "") -> Path:
        table = np.arange(50, dtype=np.float32).reshape(50, 1)
        nodes = [node("Sub", ["ids", "offset"], ["place"]), node("Gather", ["table", "place"], ["y"])]
        return write_graph(
            tmp_path / name,
            nodes,
            [port("ids", ["batch", "n"], INT64)],
            [port("y", ["batch", "n", 1])],
            {"table": table, "offset": np.array(1000)},
            config=config,
        )

    async with served(write("auto")) as model:
        assert "cannot be tried (say shape and range of inputs in config.toml)" in model.batching.reason
    async with served(write("range", "[inputs.ids]\nrange = [1000, 1049]")) as model:
        assert model.max_batch_size == 128


async def test_the_batch_may_be_on_the_second_axis_which_callers_are_not_told_as_a_batch(tmp_path: Path) -> None:
    folder = write_graph(
        tmp_path,
        [node("CumSum", ["x", "axis"], ["y"])],
        [port("x", ["length", "batch", 2])],
        [port("y", ["length", "batch", 2])],
        {"axis": np.array(0)},
        config="[inputs.x]\nbatch_axis = 1\n[outputs.y]\nbatch_axis = 1",
    )
    async with served(folder) as model:
        assert (model.max_batch_size, model.batching.max_batch) == (0, 128)
        answer = await model.infer({"x": np.ones((3, 5, 2), np.float32)})
        assert answer["y"][:, 4, 1].tolist() == [1, 2, 3]
