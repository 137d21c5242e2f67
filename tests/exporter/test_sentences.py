"""Reading sentences, holding some back, and making noisy variants of others."""

import lzma
import random
from pathlib import Path

import pytest

from hiddenstate_exporter.training import sentences as module
from hiddenstate_exporter.training.corpus import CorpusError
from hiddenstate_exporter.training.sentence_encoder_config import SentenceData
from hiddenstate_exporter.training.sentences import collect, split_sentences
from teachers import sentences


def write(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "data.txt", sentences(100))


def test_the_same_sources_and_seed_give_the_same_material(data: str) -> None:
    sources = SentenceData(in_domain=(data,), held_out=10)
    assert collect(sources, seed=1) == collect(sources, seed=1)
    assert collect(sources, seed=1).held_out != collect(sources, seed=2).held_out


def test_held_out_sentences_are_in_no_way_trained_on(data: str) -> None:
    material = collect(SentenceData(in_domain=(data,), variants=20, held_out=10))
    assert len(material.held_out) == 10
    assert not set(material.held_out) & set(material.train)
    given = set(sentences(100))
    assert given == {*material.held_out, *(given & set(material.train))}


def test_sentences_to_be_judged_on_are_left_out_whatever_their_case_and_spaces(data: str) -> None:
    judged = sentences(100)[:30]
    material = collect(
        SentenceData(in_domain=(data,), sentences=(data,), held_out=5), exclude=[f" {s.upper()}  " for s in judged]
    )
    assert not set(judged) & {*material.train, *material.held_out}


def test_a_sentence_that_comes_twice_is_taken_once(tmp_path: Path) -> None:
    lines = sentences(40)
    twice = write(tmp_path / "twice.txt", [*lines, "", *(line.upper() for line in lines)])
    material = collect(SentenceData(sentences=(twice, twice), held_out=4))
    assert sorted([*material.train, *material.held_out]) == sorted(lines)
    assert material.repeats == [1] * 36


def test_only_in_domain_sentences_are_repeated_and_varied(tmp_path: Path) -> None:
    special = write(tmp_path / "special.txt", sentences(60, seed=1))
    general = write(tmp_path / "general.txt", [f"{s} {i}" for i, s in enumerate(sentences(60, seed=2))])
    plain = collect(SentenceData(sentences=(general,), in_domain=(special,), repeat=5, variants=0, held_out=6))
    in_domain = set(sentences(60, seed=1))
    for sentence, repeat in zip(plain.train, plain.repeats, strict=True):
        assert repeat == (5 if sentence in in_domain else 1)
    varied = collect(SentenceData(sentences=(general,), in_domain=(special,), repeat=5, variants=2, held_out=6))
    noisy = set(varied.train) - set(plain.train)
    assert 60 < len(noisy) <= 120
    words = {word for sentence in in_domain for word in sentence.split()}
    assert {word for sentence in noisy for word in sentence.split()} <= words


def test_columns_are_taken_from_a_table(tmp_path: Path) -> None:
    lines = sentences(60)
    table = write(tmp_path / "t.csv", [f"{i}\t{a}\t{i}\t{b}" for i, (a, b) in enumerate(zip(lines[::2], lines[1::2]))])  # noqa: B905
    material = collect(SentenceData(sentences=(f"{table}:2,4",), held_out=6))
    assert sorted([*material.train, *material.held_out]) == sorted(lines)


def test_a_table_without_the_column_is_refused_with_its_line(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", ["1\ta\tb", "2\ta"])
    with pytest.raises(CorpusError, match=r"t.csv:2: has 2 tab-separated columns, not 3"):
        collect(SentenceData(sentences=(f"{table}:2,3",), held_out=1))


def test_a_column_is_counted_from_one(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", ["1\ta\tb"])
    with pytest.raises(CorpusError, match="columns are counted from 1"):
        collect(SentenceData(sentences=(f"{table}:0,1",), held_out=1))


def test_running_text_is_unwrapped_split_and_sampled(tmp_path: Path) -> None:
    chosen = random.Random(0).sample(sentences(300), 200)
    paragraphs = [" ".join(s.capitalize() for s in chosen[i : i + 5]).replace(" a ", "\na ") for i in range(0, 200, 5)]
    (tmp_path / "book.txt.xz").write_bytes(lzma.compress("\n\n".join(paragraphs).encode()))
    sources = SentenceData(text=(str(tmp_path / "book.txt.xz"),), max_text_sentences=50, held_out=5)
    material = collect(sources)
    found = [*material.train, *material.held_out]
    assert len(found) == 50
    assert set(found) <= {s.capitalize() for s in chosen}


def test_headings_and_endless_sentences_of_running_text_are_left_out(tmp_path: Path) -> None:
    kept = [f"This is sentence number {i}." for i in range(30)]
    book = write(tmp_path / "book.txt", ["Chapter one.", *kept, "Word " * 50 + "."])
    material = collect(SentenceData(text=(book,), held_out=3))
    assert sorted([*material.train, *material.held_out]) == sorted(kept)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It rains. We stay.", ["It rains.", "We stay."]),
        ("Does it? \u201cYes!\u201d she said.", ["Does it?", "Yes!\u201d she said."]),
        ("It costs 3.50 in all. e.g. here", ["It costs 3.50 in all. e.g. here"]),
        ("One", ["One"]),
    ],
)
def test_sentences_end_where_a_capital_follows(text: str, parts: list[str]) -> None:
    assert split_sentences(text) == parts


def test_few_sentences_are_never_all_held_back(tmp_path: Path) -> None:
    few = write(tmp_path / "few.txt", sentences(30))
    material = collect(SentenceData(sentences=(few,), held_out=2000))
    assert (len(material.train), len(material.held_out)) == (27, 3)


@pytest.mark.parametrize("lines", [[], [""], sentences(19)])
def test_too_few_sentences_are_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(CorpusError, match=r"different sentences are too few to train on; 20 or more are needed"):
        collect(SentenceData(sentences=(write(tmp_path / "few.txt", lines),), held_out=1))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere\.txt"):
        collect(SentenceData(sentences=(str(tmp_path / "nowhere.txt"),), held_out=1))


def test_a_line_that_is_no_sentence_is_named_with_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SENTENCE", 300)
    lines = [*sentences(30), "word " * 100]
    for spec in (write(tmp_path / "lines.txt", lines), write(tmp_path / "table.csv", lines) + ":1"):
        with pytest.raises(CorpusError, match=r"(lines\.txt|table\.csv):31: has 500 characters, .* with --text"):
            collect(SentenceData(sentences=(spec,)))
