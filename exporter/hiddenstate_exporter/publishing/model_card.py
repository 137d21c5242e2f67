"""Writes the card of a bundle: what the model is, where it comes from, how good it is, and what it is not for."""

from collections.abc import Iterable, Iterator
from typing import Final

import tomli_w

from hiddenstate_exporter.publishing.notices import notices
from hiddenstate_server.bundle import Bundle, Variant, VariantName

_GRAPHS: Final[dict[VariantName, str]] = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8 (weights and what they are multiplied with)",
}
_FURTHER: Final[dict[VariantName, str]] = {
    "fp16": "The float16 graphs are for GPUs, and a server that finds them faster on its GPU runs them. They were "
    "measured on a CPU, which widens what their products read; a GPU rounds more often.",
    "int8": "The int8 graphs multiply bytes, with scales that are constants: each answer is the same to the bit alone "
    "and in any batch (tried up to 128). They are faster on CPUs with instructions for it, and a server that finds "
    "them faster runs them.",
}

METRICS = {
    "perplexity": ("Perplexity", "{:.2f}"),
    "top1_accuracy": ("Next word is the first candidate", "{:.1%}"),
    "top3_accuracy": ("Next word is among the first three", "{:.1%}"),
    "unk_rate": ("Words outside the vocabulary", "{:.1%}"),
    "valid_perplexity": ("Perplexity, validation text", "{:.2f}"),
    "sts_dev_spearman": ("Spearman correlation on STS pairs", "{:.4f}"),
    "teacher_sts_dev_spearman": ("Spearman correlation of its teacher on the same pairs", "{:.4f}"),
    "valid_cosine_to_teacher": ("Mean cosine to its teacher, held-out sentences", "{:.4f}"),
}


def model_card(bundle: Bundle, *, size: int) -> str:
    """Returns the text of README.md for a bundle of `size` bytes; Markdown, nothing in it depends on the time."""
    sections = [
        f"# {bundle.name} {bundle.version}",
        _summary(bundle),
        _table(("", ""), _facts(bundle, size)),
        "## Use",
        _usage(bundle),
        "## Training",
        *_training(bundle),
        "## Measured",
        _table(("Held-out data", ""), _metrics(bundle)) if bundle.metrics else "Nothing was measured.",
        "Accuracies count words; an unknown word is a miss." if "top1_accuracy" in bundle.metrics else "",
        *_further_graphs(bundle),
        "## Same as PyTorch",
        *_parity(bundle),
        "## Limits",
        *_limits(bundle),
        "## Licence",
        f"Weights: {bundle.license}.",
        *notices(bundle.training),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def describe_metric(name: str, value: float) -> tuple[str, str]:
    """Returns a metric's name and value as people read them."""
    label, form = METRICS.get(name, (name.replace("_", " "), "{:.4g}"))
    return label, form.format(value)


def _summary(bundle: Bundle) -> str:
    if bundle.kind == "language_model":
        return "A recurrent language model: it says which words are likely to come next, and how likely a text is."
    kind = "transformer" if bundle.architecture.cell == "transformer" else "recurrent"
    return f"A {kind} sentence encoder: sentences that mean alike get vectors that lie close together."


def _facts(bundle: Bundle, size: int) -> Iterator[tuple[str, str]]:
    yield "Architecture", str(bundle.architecture)
    yield "Parameters", f"{bundle.parameters:,}"
    yield "Vocabulary", f"{bundle.vocab_size:,} tokens"
    if bundle.language_model is not None:
        yield "State of one context", f"{bundle.language_model.state_size * 4:,} bytes, however long the context is"
    if bundle.sentence_encoder is not None:
        spec = bundle.sentence_encoder
        yield "Vectors", f"{spec.dimension} components{', of length 1' if spec.normalized else ''}"
        yield "Longest sentence", f"{spec.max_seq_length} tokens; what is beyond is cut"
    yield "Size", f"{size / 1e6:.1f} MB, weights stored as {bundle.dtype} and computed in float32"
    yield "Graphs", " and ".join(_GRAPHS[name] for name in bundle.variants)
    yield "Format", f"ONNX, opset {bundle.opset}, with weights in files beside the graphs"


def _usage(bundle: Bundle) -> str:
    if bundle.kind == "language_model":
        call = f'prediction = client.predict("I would like to thank", model="{bundle.name}", top_k=5)'
        call += "\n    print([candidate.word for candidate in prediction.candidates])"
        command = f'hiddenstate predict --model {bundle.name} "I would like to thank"'
    else:
        call = (
            f'vectors = client.encode(["a sentence", "another one"], model="{bundle.name}")  # float32 [2, dimension]'
        )
        command = f'hiddenstate similarity --model {bundle.name} "a sentence" "another one"'
    python = f'from hiddenstate import Client\n\nwith Client("127.0.0.1:50051") as client:\n    {call}'
    serve = "hiddenstate serve --models FOLDER  # the folder that holds " + bundle.name
    return _code(f"{serve}\n{command}") + "\n\n" + _code(python, "python")


def _training(bundle: Bundle) -> Iterator[str]:
    training = bundle.training
    yield f"Data: {training.data}"
    if training.epochs:  # otherwise it was trained elsewhere
        several = "\n" in training.command
        yield f"Time: {_duration(training.seconds)}, {training.epochs:.1f} epochs. Command{'s' if several else ''}:"
        yield _code(training.command)
    if training.config:
        kind = bundle.kind.replace("_", "-")
        yield f"The run as a file, for `hiddenstate train {kind} --config FILE --run-dir RUN_DIR`:"
        yield _code(tomli_w.dumps(training.config).strip(), "toml")


def _metrics(bundle: Bundle) -> Iterator[tuple[str, str]]:
    known = [name for name in METRICS if name in bundle.metrics]
    others = sorted(bundle.metrics.keys() - METRICS.keys())
    return (describe_metric(name, bundle.metrics[name]) for name in [*known, *others])


def _further_graphs(bundle: Bundle) -> Iterator[str]:
    """Sets the numbers of the int8 and float16 graphs beside the others, if there are any."""
    for name, words in _FURTHER.items():
        if (variant := bundle.variants.get(name)) is not None:
            yield f"{words} On the same data:"
            yield _table(("", "float32", _GRAPHS[name].partition(" ")[0]), _beside(bundle, variant))


def _beside(bundle: Bundle, variant: Variant) -> Iterator[tuple[str, str, str]]:
    for name, value in variant.metrics.items():
        if name in bundle.metrics:
            label, fp32 = describe_metric(name, bundle.metrics[name])
            yield label, fp32, describe_metric(name, value)[1]


def _parity(bundle: Bundle) -> Iterator[str]:
    varied = "batch size, length, ragged lengths" + (" and initial state" if bundle.language_model else "")
    for name, variant in bundle.variants.items():
        parity = variant.parity
        yield (
            f"The {name} graphs were compared with PyTorch in {parity.cases} cases of {varied} ({parity.provider}). No "
            f"output was off by more than {parity.worst:.2g}; {parity.tolerance:.2g} is allowed."
            + (f" On average it was {parity.mean:.2g}." if parity.mean is not None and name != "fp32" else "")
        )
    if bundle.dtype != "float32":
        yield f"Both sides had the weights rounded to {bundle.dtype}."


def _limits(bundle: Bundle) -> Iterator[str]:
    if bundle.language_model is not None:
        yield (
            "It knows the words of its vocabulary and the manner of its training text, with that text's age, subjects "
            "and prejudices. Any other word is one and the same unknown word to it. It is for suggesting and scoring "
            "words, not for answering questions; what it writes is not checked for truth."
        )
    elif bundle.architecture.cell == "transformer":
        yield (
            "Its makers' own card says what it was trained for, and on what; it does worse on other subjects and "
            "languages. Attention costs more with each token: a sentence of twice the length takes more than twice the "
            "time."
        )
    elif not bundle.training.epochs:  # trained elsewhere
        yield (
            "Those who trained it know what it is for; it does worse on other subjects and languages, and on texts "
            "longer than those it was trained on."
        )
    else:
        yield (
            "It imitates its teacher on sentences like those it was trained on, and does worse than the teacher, most "
            "of all on other subjects and on long texts. It was not measured on any other language."
        )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _code(text: str, language: str = "") -> str:
    return f"```{language}\n{text}\n```"
