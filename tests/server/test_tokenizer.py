"""Words sorted by their beginnings."""

import json
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import SPECIALS, WORDS, language_model_bundle, word_tokenizer
from hiddenstate_server.errors import BundleError
from hiddenstate_server.tokenizer import Tokenizer, WordIndex, word_ranks
from marks import BEFORE, BEHIND, put_marks

TEXT = st.text(alphabet="abA\U0010ffffé'", max_size=4)


@given(st.lists(TEXT, min_size=1, max_size=30), TEXT, st.sets(st.integers(0, 5)))
def test_ranks_and_ranges_find_just_the_words_that_begin_so(words: list[str], prefix: str, special: set[int]) -> None:
    special &= set(range(len(words)))
    ranks = word_ranks(words, special)
    low, high = WordIndex(words, special).rank_range(prefix)
    found = {token_id for token_id, rank in enumerate(ranks) if low <= rank < high}
    assert found == {i for i, word in enumerate(words) if word.startswith(prefix) and i not in special}
    assert sorted(rank for rank in ranks if rank >= 0) == list(
        range(len(words) - len(special & set(range(len(words)))))
    )


def test_text_becomes_the_ids_of_its_words(models_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(models_dir / "tiny-lm" / "1" / "tokenizer.json")
    ids = tokenizer.encode("the car, unheard-of!")
    assert [tokenizer.words[i] for i in ids] == ["the", "car", ",", "<unk>", "!"]
    assert tokenizer.encode_batch(["the car", "car"]) == [list(ids[:2]), list(ids[1:2])]
    assert tokenizer.words == [*SPECIALS, *WORDS]


def test_a_tokenizer_that_panics_or_has_no_token_for_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    word_tokenizer(["<eos>", "the"]).save(str(path))
    with pytest.raises(BundleError, match=r"tokenizer.json: cannot take every text: .*Missing .UNK. token"):
        Tokenizer.from_file(path)
    described = json.loads(path.read_text())
    described["model"] = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    described["model"]["continuing_subword_prefix"] = "##########"
    path.write_text(json.dumps(described))
    with pytest.raises(BundleError, match="is not a tokenizer file: "):
        Tokenizer.from_file(path)


def test_a_word_that_comes_again_has_the_ids_it_had(models_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(models_dir / "tiny-lm" / "1" / "tokenizer.json")
    first, again = tokenizer.encode("the car"), tokenizer.encode("the car")
    assert first is again
    assert list(again) == tokenizer.encode_batch(["the car"])[0]


def test_texts_of_several_words_do_not_push_out_the_words(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiddenstate_server.tokenizer._WORDS_KEPT", 1)
    tokenizer = Tokenizer.from_file(models_dir / "tiny-lm" / "1" / "tokenizer.json")
    first = tokenizer.encode("car")
    assert list(tokenizer.encode("the car")) == tokenizer.encode_batch(["the car"])[0]
    assert tokenizer.encode("car") is first


def test_a_long_text_lets_other_threads_run(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.from_file(models_dir / "tiny-lm" / "1" / "tokenizer.json")
    begun, ran = threading.Event(), threading.Event()

    def run_once_begun() -> None:
        begun.wait()
        ran.set()

    other = threading.Thread(target=run_once_begun)
    other.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # so that the other thread runs only where this one lets it
    try:
        begun.set()
        tokenizer.encode("the car " * 200_000)
        ran_meanwhile = ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        other.join()
    assert ran_meanwhile


def test_a_text_is_cut_at_its_end_but_keeps_the_marks_around_it(tmp_path: Path) -> None:
    path = language_model_bundle(tmp_path) / "tokenizer.json"
    plain = Tokenizer.from_file(path)
    (ids,) = plain.encode_batch(["the car is new"])
    assert plain.num_marks == 0
    assert plain.cut(ids, 3) == ids[:3]
    put_marks(path.parent)
    marked = Tokenizer.from_file(path)
    (whole,) = marked.encode_batch(["the car is new"])
    assert marked.num_marks == len(BEFORE + BEHIND)
    assert marked.cut(whole, 7) == whole == BEFORE + ids + BEHIND
    assert marked.cut(whole, 6) == BEFORE + ids[:3] + BEHIND


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="is not a tokenizer file"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
