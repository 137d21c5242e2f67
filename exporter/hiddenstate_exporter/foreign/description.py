"""What a person says of a model that was trained elsewhere: a JSON file beside its weights.

A language model, for example:

    {"kind": "language_model", "cell": "lstm", "embedding": "encoder", "rnn": "rnn", "decoder": "decoder",
     "vocabulary": {"words": "vocab.txt", "split": "whitespace"}, "eos": "<eos>", "unk": "<unk>"}

Modules are named as in the state_dict: "decoder" stands for `decoder.weight` and `decoder.bias`. Files are looked for
beside the description. Sizes need not be given; those that are must be the weights'.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell
from hiddenstate_server.bundle import Size

Text = Annotated[str, msgspec.Meta(min_length=1)]
Split = Literal["words", "whitespace", "characters"]


class DescriptionError(ValueError):
    """A description cannot be read, or contradicts the weights; the message names the file or the field."""


class WordList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A word-level vocabulary, for models that came without a `tokenizer.json`."""

    words: str | list[str]  # a file with one word on each line, in the order of the ids; or the words themselves
    split: Split = "words"  # what text is cut into; "words" as in `vocabulary.TOKEN`
    lowercase: bool = False


class _Description(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", omit_defaults=True
):
    """What both kinds of model have."""

    cell: Cell
    embedding: Text  # module or tensor
    rnn: Text
    state_dict: Text | None = None  # the key that it lies under, where the file holds more
    rename: dict[str, str] = {}  # tensors whose names do not follow PyTorch's modules: found -> expected
    ignore: list[Text] = []  # tensors that are not part of the model; * stands for anything
    tokenizer: Text | None = None  # a Hugging Face tokenizer.json
    vocabulary: WordList | None = None
    special_words: list[Text] = []  # of the vocabulary, that stand for no text: padding and the like
    vocab_size: Size | None = None
    embedding_size: Size | None = None
    hidden_size: Size | None = None  # of one direction
    num_layers: Size | None = None
    bidirectional: bool | None = None
    license: Text | None = None  # of the weights
    training_data: Text | None = None  # in words for people

    def __post_init__(self) -> None:
        if (self.tokenizer is None) == (self.vocabulary is None):
            raise ValueError("give either tokenizer, a tokenizer.json, or vocabulary, a list of words")


class LanguageModelDescription(_Description, frozen=True, kw_only=True, tag="language_model"):
    """A language model: embedding, recurrent layers, perhaps a projection, decoder."""

    decoder: Text
    projection: Text | None = None  # a linear layer between the recurrent layers and the decoder
    tied: bool | None = None  # whether embedding and decoder are one table
    head: Literal["softmax", "adaptive_softmax"] = "softmax"
    div_value: Annotated[float, msgspec.Meta(gt=0)] = 4.0  # of the adaptive softmax
    bos: Text | None = None  # stands before every text; eos if not given
    eos: Text = "<eos>"  # ends a text
    unk: Text = "<unk>"


class SentenceEncoderDescription(_Description, frozen=True, kw_only=True, tag="sentence_encoder"):
    """A sentence encoder: embedding, recurrent layers, pooling, perhaps a projection."""

    pooling: Pooling
    attention: tuple[Text, Text] | None = None  # W1 and W2 of attention pooling: see `pooling.AttentionPooling`
    projection: Text | None = None
    dimension: Size | None = None  # of the vectors
    normalized: bool = False  # to length 1
    max_seq_length: Size = 256  # tokens; longer sentences are cut
    bos: Text | None = None  # put before every sentence
    eos: Text | None = None  # put behind every sentence
    unk: Text = "<unk>"

    def __post_init__(self) -> None:
        _Description.__post_init__(self)
        if (self.attention is not None) != (self.pooling == "attention"):
            raise ValueError('attention: names the two linear layers of pooling "attention", and of no other')


Description = LanguageModelDescription | SentenceEncoderDescription


def read_description(path: Path) -> Description:
    """Reads a description.

    Raises:
        DescriptionError: no such file, not JSON, an unknown or missing field, or a value out of range.
    """
    try:
        description: Description = msgspec.json.decode(path.read_bytes(), type=Description)
    except OSError as error:
        raise DescriptionError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DescriptionError(f"{path}: {error}") from None
    return description
