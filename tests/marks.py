"""Special tokens around every text, as BERT has them, for the tokenizers of tiny bundles."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.processors import TemplateProcessing

from bundles import EOS, UNK
from hiddenstate_server.bundle import TOKENIZER_FILE, load_bundle, write_bundle

BEFORE, BEHIND = [0], [1, 0]  # their ids


def put_marks(folder: Path) -> Path:
    """Makes the tokenizer of a bundle put one mark before every text and two behind it."""
    path = folder / TOKENIZER_FILE
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = BertNormalizer(lowercase=False)  # drops signs that nobody sees
    tokenizer.post_processor = TemplateProcessing(
        single=f"{EOS} $A {UNK} {EOS}", special_tokens=[(EOS, BEFORE[0]), (UNK, BEHIND[0])]
    )
    bundle = load_bundle(folder)
    tokenizer.save(str(path))
    write_bundle(bundle, folder)
    return folder
