"""Makes the tokenizer of a model from elsewhere, out of its `tokenizer.json` or its list of words."""

from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import PreTokenizer
from tokenizers.pre_tokenizers import Split as SplitBy
from tokenizers.processors import TemplateProcessing

from hiddenstate_exporter.foreign.description import (
    Description,
    DescriptionError,
    LanguageModelDescription,
    Split,
    WordList,
)
from hiddenstate_exporter.training.vocabulary import PRE_TOKENIZERS, load_tokenizer

_PRE_TOKENIZERS: Final[dict[Split, PreTokenizer]] = {
    "words": PRE_TOKENIZERS["words"],
    "whitespace": PRE_TOKENIZERS["whitespace"],
    "characters": SplitBy(Regex(r"[\s\S]"), behavior="isolated"),
}


def make_tokenizer(description: Description, folder: Path) -> Tokenizer:
    """Makes the tokenizer that a description asks for; `folder` is where its files lie.

    Its special words are marked as such. An encoder's tokenizer puts bos and eos around every sentence. That of a
    language model puts nothing around a text: the server begins each with bos.

    Raises:
        DescriptionError: a word is missing, empty or there twice; the file of words cannot be read.
        VocabularyError: the tokenizer file cannot be read.
    """
    if description.vocabulary is not None:
        tokenizer = _of_words(description.vocabulary, description.unk, folder)
    else:
        assert description.tokenizer is not None  # the description has checked that one of them is there
        tokenizer = load_tokenizer(folder / description.tokenizer)
    _mark_special(tokenizer, description)
    if isinstance(description, LanguageModelDescription):
        tokenizer.post_processor = None
    elif description.bos or description.eos:
        tokenizer.post_processor = _around(tokenizer, description.bos, description.eos)
    return tokenizer


def _of_words(vocabulary: WordList, unk: str, folder: Path) -> Tokenizer:
    words = vocabulary.words if isinstance(vocabulary.words, list) else _read_words(folder / vocabulary.words)
    ids: dict[str, int] = {}
    for token_id, word in enumerate(words):
        if not word:
            raise DescriptionError(f"vocabulary: word {token_id + 1} of {len(words)} is empty")
        if ids.setdefault(word, token_id) != token_id:
            raise DescriptionError(f"vocabulary: {word!r} is word {ids[word] + 1} and word {token_id + 1}")
    tokenizer = Tokenizer(WordLevel(ids, unk_token=unk))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[vocabulary.split]
    if vocabulary.lowercase:
        tokenizer.normalizer = Lowercase()
    return tokenizer


def _read_words(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark at the beginning
    except OSError as error:
        raise DescriptionError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DescriptionError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    return text.removesuffix("\n").split("\n")  # a word may be a blank, or another sign that ends lines elsewhere


def _mark_special(tokenizer: Tokenizer, description: Description) -> None:
    words = [("bos", description.bos), ("eos", description.eos), ("unk", description.unk)]
    words += [("special_words", word) for word in description.special_words]
    given = [(field, word) for field, word in words if word is not None]
    for field, word in given:
        if tokenizer.token_to_id(word) is None:  # to add it would make the vocabulary larger
            raise DescriptionError(f"{field}: {word!r} is not in the vocabulary")
    tokenizer.add_special_tokens([word for _, word in given])


def _around(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> TemplateProcessing:
    marks = [(word, tokenizer.token_to_id(word)) for word in (bos, eos) if word]
    template = [word for word in (bos, "$A", eos) if word]
    return TemplateProcessing(single=template, special_tokens=marks)
