"""What a model folder says wrong is refused while loading, in one line that says what to change."""

import asyncio
import gc
import os
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load_model, numpy_helper, save

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import BundleError
from hiddenstate_server.inference import onnx_file
from hiddenstate_server.inference.onnx_config import load_config
from hiddenstate_server.inference.onnx_file import external_files
from hiddenstate_server.inference.onnx_model import OnnxModel
from hiddenstate_server.metrics import Metrics
from onnx_graphs import node, port, running_sum, tagger, times_factor, write_graph
from tensor_serving import load, served

ONE_STATE = '[[state]]\ninput = "sum"\noutput = "next_sum"\nbatch_axis = 0\n'


def state(**lines: str) -> str:
    """The config of `running_sum` with lines replaced or added."""
    lines = {"input": '"sum"', "output": '"next_sum"', "batch_axis": "0"} | lines
    return "[[state]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("batching =", "config.toml: Invalid value"),
        ('batching = "yes"', "config.toml: Invalid enum value 'yes' - at `$.batching`"),
        ("batch = 5", "config.toml: Object contains unknown field `batch`"),
        ("max_batch = 0", "config.toml: Expected `int` >= 1 - at `$.max_batch`"),
        ("max_batch = 1e9", "config.toml: Expected `int"),
        ("threads = -1", "config.toml: Expected `int` >= 0 - at `$.threads`"),
        ('provider = "tpu"', "config.toml: Invalid enum value 'tpu' - at `$.provider`"),
        ("[sequences]\nidle_limit_s = 0", "config.toml: Expected `float` > 0.0 - at `$.sequences.idle_limit_s`"),
        ("[sequences]\nidle_limit_s = nan", "config.toml: Expected `float"),
        ("[sequences]\nmax_bytes = -1", "config.toml: Expected `int` >= 0 - at `$.sequences.max_bytes`"),
        ("[inputs.y]", "inputs.y: the graph has none of that name; it has 'x', 'factor'"),
        ("[outputs.x]", "outputs.x: the graph has none of that name; it has 'y'"),
        ("[inputs.x]\nbatch_axis = 2", "config.toml: Invalid enum value 2 - at `$.inputs[...].batch_axis`"),
        ("[inputs.x]\nshape = [-1]", "inputs.x.shape: [-1] has 1 axes, the graph has [batch, n]"),
        ("[inputs.x]\nshape = [-2, 1]", "config.toml: Expected `int` >= -1"),
        ("[inputs.x]\nrange = [2, 1]", "inputs.x.range: [2.0, 1.0] is no range from low to high of FP32"),
        ("[inputs.x]\nrange = [0, inf]", "inputs.x.range: [0.0, inf] is no range"),
        ("[inputs.x]\nrange = [nan, 1]", "inputs.x.range: [nan, 1.0] is no range"),
        ("a = " + "[" * 100_000, "config.toml: is nested too deeply"),
    ],
)
async def test_a_wrong_config_is_named(tmp_path: Path, config: str, message: str) -> None:
    assert_refused(times_factor(tmp_path, config=config), message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (state(batch_axis=""), "config.toml: Object missing required field `batch_axis` - at `$.state[0]`"),
        (state(batch_axis="2"), "config.toml: Invalid enum value 2 - at `$.state[0].batch_axis`"),
        (state(input='"x1"'), "state[0].input: the graph has no input 'x1'; it has 'x', 'sum'"),
        (state(output='"sum"'), "state[0].output: the graph has no output 'sum'; it has 'total', 'next_sum'"),
        (state() + state(), "state: input 'sum' is named twice; each belongs to one state"),
        (state() + "[inputs.sum]\n", "inputs.sum: is a state; say all of it in [[state]]"),
        (state() + "[outputs.next_sum]\n", "outputs.next_sum: is a state; say all of it in [[state]]"),
        (state(shape="[-1, 2]"), "state[0].shape: [-1, 2] does not fit into the graph's [batch, 1]"),
        (state(batch_axis="1"), "state[0]: axis 0 of 'sum' has no fixed size in [batch, 1]; say in state[0].shape"),
        (state(initial='"zero"'), "config.toml: Expected `int | float | array`, got `str` - at `$.state[0].initial`"),
        (state(initial="[1, 2]"), "state[0].initial: has shape [2], one row's state has [1]"),
        (state(initial="[[1], [2, 3]]"), "state[0].initial: is neither a number nor lists of numbers in one shape"),
        (state(initial='["a"]'), "state[0].initial: is neither a number nor lists of numbers"),
    ],
)
async def test_a_wrong_state_is_named(tmp_path: Path, config: str, message: str) -> None:
    assert_refused(running_sum(tmp_path, config=config), message)


async def test_states_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    crossed = ONE_STATE.replace("next_sum", "total")
    folder = write_graph(
        tmp_path / "a",
        [node("Add", ["x", "sum"], ["next"]), node("Flatten", ["next"], ["total"], axis=0)],
        [port("x", ["n", 2, 1]), port("sum", ["n", 2, 1])],
        [port("total", [1, "m"])],
        config=crossed,
    )
    assert_refused(folder, "state[0]: output 'total' [1, m] does not fit into input 'sum' [n, 2, 1]")
    folder = write_graph(
        tmp_path / "b",
        [node("Cast", ["s"], ["t"], to=TensorProto.DOUBLE), node("Identity", ["x"], ["y"])],
        [port("x", ["n"]), port("s", ["n"])],
        [port("y", ["n"]), port("t", ["n"], TensorProto.DOUBLE)],
        config='[[state]]\ninput = "s"\noutput = "t"\nbatch_axis = 0',
    )
    assert_refused(folder, "state[0]: output 't' is FP64, input 's' is FP32; a state goes from one to the other")


async def test_a_state_that_turns_out_not_to_fit_is_named(tmp_path: Path) -> None:
    folder = write_graph(
        tmp_path / "wider",
        [node("Concat", ["x", "s"], ["t"], axis=1), node("Identity", ["t"], ["y"])],
        [port("x", ["n", "k"]), port("s", ["n", 2])],
        [port("y", ["n", "w"]), port("t", ["n", "w"])],
        config='[[state]]\ninput = "s"\noutput = "t"\nbatch_axis = 0',
    )
    assert_refused(folder, "state[0]: state output 't' gave [1, 6], its input 's' takes [n, 2]")


async def test_an_initial_value_that_an_integer_state_cannot_hold_is_refused(tmp_path: Path) -> None:
    def write(name: str, initial: str) -> Path:
        return write_graph(
            tmp_path / name,
            [node("Add", ["x", "s"], ["t"]), node("Identity", ["t"], ["y"])],
            [port("x", ["n"], TensorProto.INT32), port("s", ["n"], TensorProto.INT32)],
            [port("y", ["n"], TensorProto.INT32), port("t", ["n"], TensorProto.INT32)],
            config=f'[[state]]\ninput = "s"\noutput = "t"\nbatch_axis = 0\ninitial = {initial}',
        )

    for position, initial in enumerate(["0.5", str(2**40), "[1.5]"]):
        assert_refused(write(str(position), initial), "state[0].initial:")


async def test_a_port_that_cannot_be_sent_is_named(tmp_path: Path) -> None:
    kind = TensorProto.BFLOAT16
    folder = write_graph(tmp_path, [node("Identity", ["x"], ["y"])], [port("x", ["n"], kind)], [port("y", ["n"], kind)])
    assert_refused(
        folder, "input 'x' is a tensor(bfloat16), which cannot be sent; let the graph cast it to one of tensor(bool)"
    )


def test_the_documented_config_is_one_that_is_read(tmp_path: Path) -> None:
    documentation = Path(__file__).parents[3] / "docs" / "onnx-models.md"
    [example] = re.findall(r"```toml\n(.*?)```", documentation.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "config.toml").write_text(example)
    config = load_config(tmp_path)
    for part in (config, config.inputs["audio"], config.state[0], config.sequences):
        keys = set(part.__struct_fields__) - {"shared"}
        assert all(re.search(rf"^(\[\[?)?{key}\b", example, re.MULTILINE) for key in keys)  # none is left out


async def test_a_config_that_is_no_small_text_file_is_refused(tmp_path: Path) -> None:
    folder = tagger(tmp_path)
    config = folder / "config.toml"
    config.mkdir()
    assert_refused(folder, "config.toml: is no file of at most 1,048,576 bytes")
    config.rmdir()
    os.mkfifo(config)
    assert_refused(folder, "config.toml: is no file")
    config.unlink()
    config.write_bytes(b"#" * 2**20 + b"#")
    assert_refused(folder, "config.toml: is no file of at most 1,048,576 bytes")
    config.write_bytes(b"\xff")
    assert_refused(folder, "config.toml: ")


async def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert_refused(tmp_path, "model.onnx: is missing, or is no file")
    os.mkfifo(path)
    assert_refused(tmp_path, "model.onnx: is missing, or is no file")
    path.unlink()
    path.write_bytes(b"\x00 this is no model")
    assert_refused(tmp_path, "model.onnx: is no ONNX file, or is damaged")
    path.write_bytes(b"")
    assert_refused(tmp_path, "cannot load it:")


async def test_operators_that_onnx_runtime_does_not_bring_are_refused(tmp_path: Path) -> None:
    nodes = [node("Secret", ["x"], ["y"], domain="com.example")]
    folder = write_graph(tmp_path, nodes, [port("x", ["n"])], [port("y", ["n"])])
    assert_refused(folder, "cannot load it:")


def externalize(
    folder: Path, location: str, *, into: Callable[[Any], Any] = lambda model: model.graph.initializer[0]
) -> None:
    """Says that a tensor's values lie in another file."""
    model = load_model(str(folder / "model.onnx"))
    tensor = into(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin", "link.bin", "", "a\0b"])
async def test_weights_outside_of_the_folder_are_never_read(tmp_path: Path, location: str) -> None:
    folder = tagger(tmp_path / "model")
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "sub").mkdir()
    externalize(folder, location)
    assert_refused(folder, f"has weights in {location!r}; they must lie in its own folder")


async def test_weights_that_are_missing_or_no_file_are_named(tmp_path: Path) -> None:
    folder = tagger(tmp_path)
    externalize(folder, "weights.bin")
    assert_refused(folder, "its weights 'weights.bin' are missing, or are no file")
    os.mkfifo(folder / "weights.bin")
    assert_refused(folder, "its weights 'weights.bin' are missing, or are no file")


async def test_weights_beside_the_graph_are_read_and_told(tmp_path: Path) -> None:
    folder = tagger(tmp_path)
    model = load_model(str(folder / "model.onnx"))
    save(model, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=64)
    assert external_files(folder / "model.onnx") == {folder.resolve() / "weights.bin"}
    async with served(folder) as served_model:
        assert (await served_model.infer({"ids": np.array([[1]])}))["scores"].shape == (1, 1, 10)


async def test_weights_in_a_constant_of_a_branch_are_looked_at_too(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(1, np.float32)))
    branch = helper.make_graph([constant], "branch", [], [port("c", [1])])
    nodes = [node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)]
    folder = write_graph(tmp_path / "model", nodes, [port("flag", [], TensorProto.BOOL)], [port("y", [1])])
    (tmp_path / "secret.bin").write_bytes(bytes(100))
    externalize(folder, "../secret.bin", into=lambda model: model.graph.node[0].attribute[0].g.node[0].attribute[0].t)
    assert_refused(folder, "has weights in '../secret.bin'; they must lie in its own folder")


async def test_loading_works_off_the_event_loop(tmp_path: Path) -> None:
    folder, loop = tagger(tmp_path), asyncio.get_running_loop()
    model = await asyncio.to_thread(OnnxModel.load, folder, "m", "1", EngineSettings(), Metrics(), loop)
    assert (await model.infer({"ids": np.array([[1]])}))["scores"].shape == (1, 1, 10)
    model.close()


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


async def test_a_graph_of_huge_declared_sizes_is_served_without_making_up_inputs_of_them(tmp_path: Path) -> None:
    huge: list[int | str | None] = ["batch", 1_000_000, 1_000_000]
    write_graph(tmp_path, [node("Identity", ["x"], ["y"])], [port("x", huge)], [port("y", huge)])
    async with served(tmp_path) as model:
        assert "inputs of 8 rows have 8,000,000,000,000 values, more than" in model.batching.reason


async def test_a_state_that_would_never_have_room_is_refused_before_one_is_made(tmp_path: Path) -> None:
    state: list[int | str | None] = ["batch", 1_000_000, 1_000_000]
    ports = [port("x", ["batch", 1]), port("sum", state)], [port("y", ["batch", 1]), port("next_sum", state)]
    write_graph(
        tmp_path, [node("Identity", ["x"], ["y"]), node("Identity", ["sum"], ["next_sum"])], *ports, config=ONE_STATE
    )
    assert_refused(tmp_path, "state: a sequence of one row has 4,000,000,000,000 bytes, and all sequences may have")


async def test_classes_of_messages_in_messages_outlive_the_garbage_collector(tmp_path: Path) -> None:
    # Else a thread may be given a class that another one's collection takes apart: the process ends.
    model: Any = onnx_file._read(tagger(tmp_path) / "model.onnx")
    classes = [weakref.ref(type(model.graph)), weakref.ref(type(model.graph.node[0]))]
    del model
    gc.collect()
    assert all(each() for each in classes)
