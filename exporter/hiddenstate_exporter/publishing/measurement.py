"""Measures a bundle on a person's data, beside the PyTorch checkpoint that it came from if that is at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer

from hiddenstate_exporter.foreign.transformer_folder import TransformerFolder
from hiddenstate_exporter.publishing.checkpoint_model import language_model_of, sentence_encoder_of
from hiddenstate_exporter.publishing.evaluation import Track, encode_sentences, mark_id, score_language_model
from hiddenstate_exporter.publishing.onnx_model import IdArray, OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.source import Model
from hiddenstate_exporter.publishing.transformer_parity import encode_texts, load_rounded
from hiddenstate_exporter.training.checkpoint import Checkpoint, Kind
from hiddenstate_exporter.training.corpus import check_sources, read_sources, split
from hiddenstate_exporter.training.distillation import encode
from hiddenstate_exporter.training.language_model_task import score
from hiddenstate_exporter.training.sts import Encode, read_sts, spearman
from hiddenstate_exporter.training.vocabulary import encode_stream, load_tokenizer
from hiddenstate_server.bundle import TOKENIZER_FILE, Bundle, LanguageModelSpec, VariantName

Part = Literal["test", "valid", "train", "all"]

PERPLEXITY, SPEARMAN = "perplexity", "sts_dev_spearman"


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """How far the numbers of a variant may be from those of what it was made from."""

    perplexity: float  # relative
    spearman: float  # absolute


MARGINS: dict[VariantName, Margin] = {
    "fp32": Margin(perplexity=1e-3, spearman=1e-3),  # what storing weights in half precision may cost
    "fp16": Margin(perplexity=1e-3, spearman=1e-3),
    "int8": Margin(perplexity=1e-2, spearman=5e-3),  # what rounding weights and activations to 8 bits may
}
Named = tuple[str, Mapping[str, float]]  # numbers, and whose they are


class MeasurementError(ValueError):
    """A bundle cannot be measured on this data, or its numbers are not those of what it was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What to measure on: text for language models, sentence pairs for encoders."""

    sources: Sequence[str] = ()  # as for training
    part: Part = "test"
    sts: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.sources) or self.sts is not None


NO_DATA = Data()


def check_data(data: Data, kind: Kind, *, is_needed: bool) -> None:
    """Looks, before anything is built, whether a model of a kind can be measured on data that may not be left out.

    Raises:
        MeasurementError: it is of the wrong sort, or not given and needed.
        CorpusError, StsError: it is not there.
    """
    if not data:
        if is_needed:
            what = (
                "text that training held out with --data" if kind == "language_model" else "sentence pairs with --sts"
            )
            raise MeasurementError(f"what is to stand beside fp32 is published once it has been measured: give {what}")
        return
    if kind == "language_model":
        _check_is_text(data)
        check_sources(data.sources)
    else:
        read_sts(_pairs_of(data))


@dataclass(frozen=True, slots=True)
class Measured:
    """Numbers by name: the bundle's, and those of the checkpoint (empty without one)."""

    onnx: Mapping[str, float]
    torch: Mapping[str, float]


def measure(
    folder: Path,
    bundle: Bundle,
    data: Data,
    *,
    checkpoint: Model | None = None,
    variant: VariantName = "fp32",
    track: Track = iter,
) -> Measured:
    """Measures a variant of the bundle in `folder`, and the checkpoint with its weights unrounded.

    Raises:
        MeasurementError: the data is of the wrong sort, the checkpoint of another kind, or the variant not there.
        CorpusError: a source of text cannot be read.
        StsError: the file of pairs cannot be read.
    """
    if checkpoint is not None and checkpoint.kind != bundle.kind:
        raise MeasurementError(f"the checkpoint is a {checkpoint.kind}, the bundle a {bundle.kind}")
    if variant not in bundle.variants:
        raise MeasurementError(f"the bundle has no variant {variant}, only {', '.join(bundle.variants)}")
    graphs = bundle.variants[variant].graphs
    if isinstance(checkpoint, TransformerFolder) or bundle.kind == "sentence_encoder":
        return _sentence_encoder(folder, bundle, graphs, data, checkpoint, track)
    return _language_model(folder, bundle, graphs, data, checkpoint, track)


def check_nothing_lost(measured: Measured, variant: VariantName = "fp32") -> None:
    """Compares the bundle's numbers with the checkpoint's, where both are known.

    Raises:
        MeasurementError: one is further off than storing weights in half precision, or 8 bits, may cost.
    """
    check_close(("the bundle", measured.onnx), ("the checkpoint", measured.torch), variant)


def check_close(actual: Named, reference: Named, variant: VariantName) -> None:
    """Compares the perplexity and the rank correlation of a variant with those of a reference, if it has them.

    Raises:
        MeasurementError: one is further off than the variant may be.
    """
    margin, (what, numbers), (other, expected) = MARGINS[variant], actual, reference
    allowed = {PERPLEXITY: margin.perplexity * expected.get(PERPLEXITY, 0.0), SPEARMAN: margin.spearman}
    for name in sorted(allowed.keys() & expected.keys() & numbers.keys()):
        if not abs(numbers[name] - expected[name]) <= allowed[name]:  # NaN must not pass
            raise MeasurementError(
                f"{name} is {numbers[name]:.6g} with {what} but {expected[name]:.6g} with {other}; "
                f"a difference of {allowed[name]:.2g} is allowed"
            )


def _language_model(
    folder: Path,
    bundle: Bundle,
    graphs: Mapping[str, str],
    data: Data,
    checkpoint: Checkpoint | None,
    track: Track,
) -> Measured:
    spec = bundle.language_model
    assert spec is not None  # load_bundle has checked it
    stream = _stream(data, load_tokenizer(folder / TOKENIZER_FILE), spec)
    onnx = score_language_model(OnnxLanguageModel(folder, graphs), spec, stream, track=track)
    if checkpoint is None:
        return Measured(asdict(onnx), {})
    reference = score(
        language_model_of(checkpoint),
        torch.from_numpy(stream),
        special_ids=spec.special_token_ids,
        unk_id=spec.unk_token_id,
        mark_id=mark_id(spec),
    )
    return Measured(asdict(onnx), asdict(reference))


def _sentence_encoder(
    folder: Path, bundle: Bundle, graphs: Mapping[str, str], data: Data, checkpoint: Model | None, track: Track
) -> Measured:
    spec = bundle.sentence_encoder
    assert spec is not None  # load_bundle has checked it
    pairs, tokenizer = read_sts(_pairs_of(data)), load_tokenizer(folder / TOKENIZER_FILE)
    onnx_model = OnnxSentenceEncoder(folder, graphs)
    onnx = spearman(
        lambda texts: encode_sentences(onnx_model, tokenizer, texts, max_seq_length=spec.max_seq_length, track=track),
        pairs,
    )
    if checkpoint is None:
        return Measured({SPEARMAN: onnx}, {})
    return Measured({SPEARMAN: onnx}, {SPEARMAN: spearman(_torch_encode(checkpoint, tokenizer), pairs)})


def _torch_encode(model: Model, tokenizer: Tokenizer) -> Encode:
    if isinstance(model, TransformerFolder):
        reference = load_rounded(model, "float32")
        return lambda texts: encode_texts(reference, texts)
    encoder = sentence_encoder_of(model)
    return lambda texts: encode(encoder, tokenizer, texts)


def _pairs_of(data: Data) -> Path:
    if data.sts is None:
        raise MeasurementError("a sentence encoder is measured on pairs of sentences: give --sts FILE")
    return data.sts


def _check_is_text(data: Data) -> None:
    if not data.sources:
        raise MeasurementError("a language model is measured on text: give --data SOURCE")


def _stream(data: Data, tokenizer: Tokenizer, spec: LanguageModelSpec) -> IdArray:
    _check_is_text(data)
    documents = read_sources(data.sources)
    if data.part == "all":
        paragraphs = [paragraph for document in documents for paragraph in document.paragraphs]
    else:
        paragraphs = getattr(split(documents), data.part)
    return encode_stream(tokenizer, paragraphs, bos=spec.bos_token_id, eos=spec.eos_token_id)
