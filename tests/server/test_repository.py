"""Finding models by name and version, and refusing folders that cannot be served."""

import asyncio
import errno
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import onnx
import pytest

from bundles import language_model_bundle, sentence_encoder_bundle
from hiddenstate_server.bundle import BUNDLE_FILE, Bundle, file_checksum, write_bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import BundleError, ConfigError, InvalidRequestError, ModelNotFoundError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository import Repository
from marks import put_marks


def load(folder: Path, **settings: object) -> Repository:
    engine = EngineSettings(**settings)  # type: ignore[arg-type]
    return Repository.open(folder, settings=engine, metrics=Metrics(), loop=asyncio.get_running_loop())


async def test_the_newest_version_is_served_and_ten_is_newer_than_nine(tmp_path: Path) -> None:
    for version in ("9", "10", "8"):
        language_model_bundle(tmp_path, version=version)
    repository = load(tmp_path)
    assert [(model.name, model.version) for model in repository.models()] == [("tiny-lm", "10")]
    repository.close()


async def test_a_model_is_found_by_kind_by_name_and_by_version(repository: Repository) -> None:
    assert repository.language_model() is repository.find("tiny-lm") is repository.language_model("tiny-lm", "1")
    assert repository.sentence_encoder() is repository.find("tiny-encoder", "1")


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("nobody", "", "model: no model 'nobody' answers this call; there is: tiny-lm version 1"),
        ("tiny-lm", "2", "model_version: tiny-lm has no version '2'; there is: 1"),
        ("tiny-encoder", "", "model: tiny-encoder is a model of another kind than this call needs; there is: tiny-lm"),
    ],
)
async def test_an_unknown_model_is_not_found_and_what_there_is_is_named(
    repository: Repository, name: str, version: str, message: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        repository.language_model(name, version)


async def test_without_a_name_several_models_are_ambiguous(tmp_path: Path) -> None:
    sentence_encoder_bundle(tmp_path, name="a")
    sentence_encoder_bundle(tmp_path, name="b")
    repository = load(tmp_path)
    with pytest.raises(InvalidRequestError, match="there are several; name one of: a version 1, b"):
        repository.sentence_encoder()
    with pytest.raises(
        ModelNotFoundError, match="model: the server has none for this call; ListModels tells what it has"
    ):
        repository.language_model()
    repository.close()


async def test_an_empty_folder_is_refused_where_nobody_may_fill_it_and_so_is_one_with_other_things(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"--models .*: has no models"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"--models .*: cannot be read: No such file"):
        load(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    loop = asyncio.get_running_loop()
    with pytest.raises(ConfigError, match=r"--models .*: has no models"):
        Repository.open(tmp_path, settings=EngineSettings(), metrics=Metrics(), loop=loop, may_be_empty=True)


async def test_a_variant_that_the_bundle_lacks_is_told_with_a_warning(
    models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(models_dir, variant="int8").close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(warnings) == [
        "running tiny-encoder 1 in fp32: the bundle has no int8 graphs",
        "running tiny-lm 1 in fp32: the bundle has no int8 graphs",
    ]


async def test_a_provider_that_is_not_installed_is_refused_when_asked_for_by_name(models_dir: Path) -> None:
    with pytest.raises(ConfigError, match="--provider tensorrt: TensorrtExecutionProvider"):
        load(models_dir, provider="tensorrt")


async def test_a_model_folder_that_may_not_be_read_is_refused(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = Path.iterdir

    def iterate_if_allowed(path: Path) -> Iterator[Path]:
        if path.name == "tiny-lm":  # permissions would not stop root
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterate(path)

    monkeypatch.setattr(Path, "iterdir", iterate_if_allowed)
    with pytest.raises(ConfigError, match=r"--models .*tiny-lm: cannot be read: Permission denied"):
        load(models_dir)


async def test_a_folder_of_another_name_than_its_bundle_is_refused(models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / "tiny-lm" / "1", tmp_path / "other" / "1")
    with pytest.raises(BundleError, match=r"bundle\.json names tiny-lm/1"):
        load(tmp_path)


async def test_a_graph_that_is_cut_off_is_refused_even_with_a_right_checksum(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path)
    graph = folder / "recurrent.onnx"
    graph.write_bytes(graph.read_bytes()[:-200])
    sign_again(folder)
    with pytest.raises(BundleError, match=r"recurrent\.onnx: is no ONNX file, or is damaged"):
        load(tmp_path)


async def test_a_graph_of_another_shape_than_the_bundle_says_is_refused(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path)
    document = json.loads((folder / "bundle.json").read_text())
    document["language_model"] |= {"state_size": 100}
    (folder / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="a graph does not run as its kind demands"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("graph", "output"),
    [("recurrent", "outputs"), ("recurrent", "next_state"), ("head", "top_log_probs"), ("encoder", "embeddings")],
)
async def test_a_graph_that_answers_in_another_type_than_float32_is_refused(
    tmp_path: Path, graph: str, output: str
) -> None:
    folder = sentence_encoder_bundle(tmp_path) if graph == "encoder" else language_model_bundle(tmp_path)
    answer_in_float64(folder / f"{graph}.onnx", output)
    sign_again(folder)
    with pytest.raises(BundleError, match=f"the graph's output {output} is float64 where float32 is due"):
        load(tmp_path)


async def test_a_tokenizer_of_another_size_than_the_graph_is_refused(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path / "models")
    other = language_model_bundle(tmp_path / "other", words=["a", "b", "c"])
    shutil.copy(other / "tokenizer.json", folder)
    sign_again(folder)
    with pytest.raises(BundleError, match=r"tokenizer\.json has 5 tokens, bundle\.json says"):
        load(tmp_path / "models")


async def test_an_encoder_that_has_no_room_for_a_sentence_between_its_marks_is_refused(tmp_path: Path) -> None:
    put_marks(sentence_encoder_bundle(tmp_path, max_seq_length=3))
    with pytest.raises(BundleError, match=r"max_seq_length is 3, which leaves no room .* the 3 marks"):
        load(tmp_path)


def answer_in_float64(path: Path, output: str) -> None:
    """Puts a cast behind an output of a graph."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = [f"{name}_as_it_was" if name == output else name for name in node.output]
        node.input[:] = [f"{name}_as_it_was" if name == output else name for name in node.input]
    cast = onnx.helper.make_node("Cast", [f"{output}_as_it_was"], [output], to=onnx.TensorProto.DOUBLE)
    model.graph.node.append(cast)
    (port,) = (port for port in model.graph.output if port.name == output)
    port.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, path)


def sign_again(folder: Path) -> None:
    """Writes the checksums of files that have changed."""
    bundle = msgspec.json.decode((folder / BUNDLE_FILE).read_bytes(), type=Bundle)
    write_bundle(bundle, folder)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../weights.bin", r"has weights in '\.\./weights\.bin'; they must lie in its own folder"),
        ("other.bin", r"has weights in 'other\.bin', which bundle\.json does not list"),
    ],
)
async def test_graphs_of_a_bundle_read_no_files_but_those_with_a_checksum(
    tmp_path: Path, location: str, message: str
) -> None:
    folder = language_model_bundle(tmp_path)
    for other in (folder.parent / "weights.bin", folder / "other.bin"):
        shutil.copy(folder / "weights.bin", other)
    graph = onnx.load(str(folder / "head.onnx"), load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (folder / "head.onnx").write_bytes(graph.SerializeToString())
    document = json.loads((folder / BUNDLE_FILE).read_text())
    document["files"]["head.onnx"] = file_checksum(folder / "head.onnx")  # and none of the other file
    (folder / BUNDLE_FILE).write_text(json.dumps(document))
    with pytest.raises(BundleError, match=rf"head\.onnx: {message}"):
        load(tmp_path)
