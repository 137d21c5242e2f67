"""The texts of a run: what is trained on, what is validated on, and what is tested on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from hiddenstate_exporter.training.corpus import Split, read_sources, split
from hiddenstate_exporter.training.run_config import DataConfig
from hiddenstate_exporter.training.vocabulary import encode_stream, train_word_tokenizer

VOCAB_SIZE = 20_000  # where none is asked for
MIN_HELD_OUT = 1000  # tokens; one's loss deviates by some 2.6, so the perplexity of fewer is off by 8 % and more


@dataclass(frozen=True, slots=True)
class Texts:
    """The three parts as token streams, int64 [tokens], and the tokenizer that made them."""

    tokenizer: Tokenizer
    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor

    @property
    def vocab_size(self) -> int:
        """Words, special ones included."""
        return int(self.tokenizer.get_vocab_size())


def read_texts(config: DataConfig) -> Texts:
    """Reads the texts of a run and makes the vocabulary of the part that is trained on.

    Raises:
        CorpusError: a source cannot be used, or there is too little text.
        VocabularyError: the text has fewer different words than asked for.
    """
    parts = split(read_sources(config.sources)) if config.sources else _parts(config)
    tokenizer = train_word_tokenizer(
        parts.train, config.vocab_size or VOCAB_SIZE, fewer=config.vocab_size is None, split=config.split
    )
    streams = (torch.from_numpy(encode_stream(tokenizer, part)) for part in (parts.train, parts.valid, parts.test))
    return Texts(tokenizer, *streams)


def warn_of_small_parts(texts: Texts) -> Iterator[str]:
    """Yields a line for each held-out part that is too small for its perplexity to mean much."""
    for part, use in (("valid", "choose the best weights"), ("test", "say how good they are")):
        tokens = len(getattr(texts, part))
        if tokens < MIN_HELD_OUT:
            yield (
                f"warning: the {part} part has {tokens:,} tokens, too few to {use} ({MIN_HELD_OUT:,} or more can); "
                f"give more text, or a longer text for this part alone (data.{part})"
            )


def describe_sources(config: DataConfig) -> str:
    """Returns what the data is, for the model card."""
    return config.description or ", ".join(config.sources or [*config.train, *config.valid, *config.test])


def _parts(config: DataConfig) -> Split:
    return Split(_paragraphs(config.train), _paragraphs(config.valid), _paragraphs(config.test))


def _paragraphs(sources: Sequence[str]) -> list[str]:
    return [paragraph for document in read_sources(sources) for paragraph in document.paragraphs]
