"""Transformers from sentence-transformers folders: the same vectors, and clear words for what cannot be exported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from hiddenstate_exporter.cli import evaluate
from hiddenstate_exporter.foreign.transformer_files import TransformerFolderError
from hiddenstate_exporter.foreign.transformer_folder import TransformerFolder
from hiddenstate_exporter.graphs.weights import StoredDtype
from hiddenstate_exporter.publishing import source, transformer_build
from hiddenstate_exporter.publishing.evaluation import encode_sentences
from hiddenstate_exporter.publishing.export import ExportError, ExportOptions, export
from hiddenstate_exporter.publishing.onnx_model import OnnxSentenceEncoder
from hiddenstate_exporter.training.vocabulary import load_tokenizer
from hiddenstate_server.bundle import load_bundle
from teachers import sentences
from transformers_folder import HIDDEN_SIZE, MAX_SEQ_LENGTH, change_settings, change_weights, load, write_transformer

pytestmark = pytest.mark.usefixtures("small_grid")

TEXTS = [*sentences(20), "cat", "THE Cats wanted caf\u00e9s!", "the cat sees a dog " * 20, "the dog sees a cat " * 7]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mean pooling, not to be changed."""
    return write_transformer(tmp_path_factory.mktemp("written") / "x")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(written, tmp_path / "tiny-bert")


def _export(folder: Path, **options: Any) -> Path:
    return export(folder, ExportOptions(to=folder.parent / "models", **options))


def _encode(bundle: Path, texts: list[str]) -> NDArray[np.float32]:
    spec = load_bundle(bundle).sentence_encoder
    assert spec is not None
    encoder, tokenizer = (
        OnnxSentenceEncoder(bundle, {"encoder": "encoder.onnx"}),
        load_tokenizer(bundle / "tokenizer.json"),
    )
    return encode_sentences(encoder, tokenizer, texts, max_seq_length=spec.max_seq_length)


@pytest.mark.parametrize(
    "model",
    [
        {"pooling": "mean"},
        {"pooling": "cls", "num_layers": 1},
        {"pooling": "max", "normalized": False},
        {"pooling": "lasttoken", "hidden_act": "relu"},
        {"dense": [(10, "Tanh", True), (7, "Identity", False)]},
        {"dense": [(10, "GELU", True), (12, "ReLU", True)], "normalized": False},
    ],
    ids=str,
)
def test_a_bundle_gives_the_vectors_of_sentence_transformers(tmp_path: Path, model: dict[str, Any]) -> None:
    folder = write_transformer(tmp_path / "x", **model)
    bundle = _export(folder, dtype="float32")
    expected = load(folder).encode(TEXTS)
    actual = _encode(bundle, TEXTS)
    assert np.median(expected.std(axis=0)) > 0.01  # or nothing is shown
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_a_bundle_says_what_the_folder_said(folder: Path) -> None:
    target = _export(folder)
    bundle = load_bundle(target)
    spec = bundle.sentence_encoder
    assert spec is not None
    assert (bundle.name, bundle.version, bundle.kind, bundle.license) == ("tiny-bert", "1", "sentence_encoder", "mit")
    assert (spec.dimension, spec.max_seq_length, spec.normalized) == (HIDDEN_SIZE, MAX_SEQ_LENGTH, True)
    assert str(bundle.architecture) == "bidirectional transformer 2x24, embedding 24 with mean pooling"
    parameters = sum(p.numel() for name, p in load(folder).named_parameters() if "pooler" not in name)
    assert bundle.parameters == parameters
    card = (target / "README.md").read_text(encoding="utf-8")
    assert "A transformer sentence encoder" in card
    assert "published from the folder tiny-bert" in card
    assert "Time:" not in card  # it was not trained here
    assert str(folder.parent) not in card + (target / "bundle.json").read_text(encoding="utf-8")


def test_float16_moves_vectors_little_and_equal_folders_give_equal_bytes(written: Path, tmp_path: Path) -> None:
    targets = [_export(shutil.copytree(written, tmp_path / at / "tiny-bert")) for at in "ab"]
    first, second = ({path.name: path.read_bytes() for path in target.iterdir()} for target in targets)
    assert first == second
    difference = np.abs(_encode(targets[0], TEXTS) - load(written).encode(TEXTS)).max()
    assert 1e-5 < difference < 5e-3


def test_old_folders_are_read(folder: Path) -> None:
    """Their pooling is a switch, their modules lie elsewhere, their weights are a pickle with a head for training."""
    expected = load(folder).encode(TEXTS)
    modules = json.loads((folder / "modules.json").read_text())
    for module, name in zip(modules, ("Transformer", "Pooling", "Normalize"), strict=True):
        module["type"] = f"sentence_transformers.models.{name}"
    (folder / "modules.json").write_text(json.dumps(modules))
    switches = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": HIDDEN_SIZE, **switches}))
    limits = {"max_seq_length": MAX_SEQ_LENGTH, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits))
    change_settings(folder / "tokenizer_config.json", {"model_max_length": 48})
    weights: dict[str, Any] = {}
    change_weights(folder, lambda tensors: weights.update(tensors))
    (folder / "model.safetensors").unlink()
    head = {"cls.predictions.bias": torch.zeros(3), "bert.embeddings.position_ids": torch.arange(48)[None]}
    torch.save({f"bert.{name}": tensor for name, tensor in weights.items()} | head, folder / "pytorch_model.bin")
    np.testing.assert_allclose(_encode(_export(folder, dtype="float32"), TEXTS), expected, rtol=0, atol=1e-5)


def test_lower_case_is_asked_for_in_either_file(folder: Path) -> None:
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text.replace('"lowercase": true', '"lowercase": false').replace(
                '_lower_case": true', '_lower_case": false'
            ),
            encoding="utf-8",
        )
    cased = _encode(_export(folder, dtype="float32", name="cased"), ["Cat", "cat"])
    assert np.abs(cased[0] - cased[1]).max() > 0.01
    change_settings(folder / "sentence_bert_config.json", {"do_lower_case": True})
    lower = _encode(_export(folder, dtype="float32", name="lower"), ["Cat", "cat"])
    np.testing.assert_array_equal(lower[0], lower[1])


def test_padding_and_truncation_that_a_tokenizer_file_asks_for_are_dropped(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    bundle = _export(folder, dtype="float32")
    assert len(load_tokenizer(bundle / "tokenizer.json").encode("cat dog cat dog cat dog cat").ids) == 9
    np.testing.assert_allclose(_encode(bundle, TEXTS), load(folder).encode(TEXTS), rtol=0, atol=1e-5)


def test_a_package_gives_its_name(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "find_in_package", {"tiny-bert": ("1.2", written)}.__getitem__)
    folder = export(Path("package:Tiny--BERT"), ExportOptions(to=tmp_path))
    assert folder == tmp_path / "tiny-bert" / "1"
    assert "package tiny-bert 1.2" in load_bundle(folder).training.data


def test_a_licence_that_is_given_counts_and_one_that_is_not_known_is_asked_for(folder: Path) -> None:
    assert load_bundle(_export(folder, license="Apache-2.0")).license == "Apache-2.0"
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-own\n---\n", encoding="utf-8")
    assert load_bundle(_export(folder)).license == "my-own"
    for card in ("# no metadata\n", "---\nlanguage: en\n---\n"):
        (folder / "README.md").write_text(card, encoding="utf-8")
        with pytest.raises(TransformerFolderError, match=r"its README\.md names no licence; .*: --license TEXT"):
            _export(folder)
    (folder / "README.md").unlink()
    with pytest.raises(TransformerFolderError, match="names no licence"):
        _export(folder)
    assert load_bundle(_export(folder, license="MIT")).license == "MIT"


def test_a_graph_that_differs_from_sentence_transformers_is_not_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrong(target: Path, model: TransformerFolder, dtype: StoredDtype) -> dict[str, str]:
        model.weights["encoder.layer.1.output.dense.bias"][3] += 0.01
        return write(target, model, dtype)

    write = transformer_build.write_transformer_graph
    monkeypatch.setattr(transformer_build, "write_transformer_graph", write_wrong)
    with pytest.raises(ExportError, match=r"tiny-bert: embeddings: differs from PyTorch .* \(batch 1, seq 1"):
        _export(folder)
    assert not (folder.parent / "models").exists()


def test_a_tokenizer_that_sentence_transformers_reads_otherwise_is_not_published(folder: Path) -> None:
    path = folder / "tokenizer.json"  # tokenizer_config.json still says do_lower_case, and counts
    path.write_text(
        path.read_text(encoding="utf-8").replace('"lowercase": true', '"lowercase": false'), encoding="utf-8"
    )
    with pytest.raises(ExportError, match=r"sentence 'A man.* into other tokens than its tokenizer\.json does"):
        _export(folder)


def _settings(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_settings(folder / name, changes)


def _weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: change_weights(folder, change)


def _written(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return write


QUERY = "encoder.layer.0.attention.self.query.weight"
REFUSED: list[tuple[Callable[[Path], Any], str]] = [
    (_settings("config.json", model_type="mpnet"), r"config\.json: model_type is 'mpnet'; .* of model_type 'bert'"),
    (_written("config.json", '{"model_type": "t5", "d_model": 8}'), "model_type is 't5'"),
    (_written("config.json", '{"model_type": "bert"}'), r"config\.json: .*missing required field `vocab_size`"),
    (_settings("config.json", hidden_size="24"), r"Expected `int`, got `str` - at `\$\.hidden_size`"),
    (_settings("config.json", num_attention_heads=5), "hidden_size is 24, which cannot be divided among .*, 5"),
    (_settings("config.json", hidden_act="gelu_new"), "hidden_act is 'gelu_new'; supported are gelu and relu"),
    (_settings("config.json", is_decoder=True), "is_decoder is true"),
    (_settings("config.json", position_embedding_type="relative_key"), "position_embedding_type is 'relative_key'"),
    (_settings("config.json", hidden_size=48), "pools 24 components, but the transformer gives 48"),
    (_settings("config.json", intermediate_size=7), r"shape \[40, 24\], but config\.json asks for \[7, 24\]"),
    (_settings("config.json", num_hidden_layers=3), r"tensor 'encoder\.layer\.2\..*' is missing, but config\.json"),
    (_settings("config.json", num_hidden_layers=1), r"tensor 'encoder\.layer\.1\..*' does not belong to what config"),
    (_settings("config.json", vocab_size=20), r"tokenizer\.json: has 26 tokens, but config\.json's vocab_size is 20"),
    (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
    (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: .*No such file.*; save the model once"),
    (_written("tokenizer.json", "{}"), r"tokenizer\.json: .*not a tokenizer"),
    (_written("modules.json", "[]"), "the modules are none; supported is Transformer, then Pooling"),
    (_written("modules.json", '[{"path": "", "type": "os.path"}]'), r"the modules are os\.path; supported is"),
    (_written("1_Pooling/config.json", '{"pooling_mode": ["mean", "max"]}'), "the pooling is mean and max; supported"),
    (_written("1_Pooling/config.json", '{"pooling_mode": "weightedmean"}'), "the pooling is weightedmean; supported"),
    (_settings("1_Pooling/config.json", embedding_dimension=99), "pools 99 components, but the transformer gives 24"),
    (_settings("sentence_bert_config.json", max_seq_length=600), "max_seq_length is 600, but .* is 48"),
    (_settings("sentence_bert_config.json", max_seq_length=2), "no room beside the 2 marks"),
    (
        _settings("config_sentence_transformers.json", default_prompt_name="q", prompts={"q": "query: "}),
        "default_prompt_name is 'q', which puts 'query: ' before every sentence",
    ),
    (lambda folder: (folder / "model.safetensors").unlink(), r"has no weights; model\.safetensors or pytorch_model"),
    (_written("model.safetensors", "not weights"), r"model\.safetensors: not a file of tensors"),
    (_weights(lambda tensors: tensors.pop(QUERY)), rf"model\.safetensors: tensor '{QUERY}' is missing"),
    (_weights(lambda tensors: tensors.update(adapter=torch.zeros(2))), "tensor 'adapter' does not belong"),
    (_weights(lambda tensors: tensors[QUERY].fill_(torch.inf)), f"tensor '{QUERY}' holds values that are not finite"),
    (_written("README.md", "---\nlicense: [a\n---\n"), r"README\.md: its metadata cannot be read"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_cannot_be_exported_is_refused_in_one_line(
    folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message) as refused:
        _export(folder)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)
    assert not (folder.parent / "models").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": 5}, "in_features is 5, but vectors come 24 wide"),
        ({"out_features": 11}, r"tensor 'linear.weight' has shape \[10, 24\], but config\.json asks for \[11, 24\]"),
        ({"activation_function": "torch.nn.SiLU"}, "activation_function is SiLU; supported are Identity, Tanh"),
        ({"use_residual": True}, "without a residual"),
    ],
)
def test_a_linear_layer_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_transformer(tmp_path / "x", dense=[(10, "Tanh", True)], num_layers=1)
    change_settings(folder / "2_Dense" / "config.json", changes)
    with pytest.raises(TransformerFolderError, match=message):
        _export(folder)


def test_another_folder_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(
        TransformerFolderError, match=r"without modules\.json; give a checkpoint \(a file such as best.pt\)"
    ):
        export(tmp_path, ExportOptions(to=tmp_path / "models"))


def test_evaluate_prints_the_bundle_and_its_folder_side_by_side(folder: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "sts.csv"
    texts = sentences(12)
    pairs.write_text("\n".join(f"g\tf\ty\t{i}\t{i / 3}\t{text}\t{texts[0]}" for i, text in enumerate(texts)))
    arguments = [_export(folder, dtype="float32"), "--sts", pairs, "--checkpoint", folder]
    result = CliRunner().invoke(evaluate, [str(argument) for argument in arguments], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if "Spearman" in line]
    _, onnx, reference = [cell.strip() for cell in line.strip("\u2502").split("\u2502")]
    assert float(onnx) == float(reference)
