"""Sources of text and their split."""

import lzma
import random
from pathlib import Path

import pytest

from hiddenstate_exporter.training.corpus import CorpusError, Document, paragraphs_of, read_sources, split


def make_documents(count: int = 3, paragraphs: int = 60, words: int = 12) -> list[Document]:
    return [
        Document(f"book-{n}.txt", tuple(f"book {n} paragraph {i} " + "word " * words for i in range(paragraphs)))
        for n in range(count)
    ]


def test_hard_wrapped_lines_become_one_paragraph() -> None:
    text = "One line\r\nand its end.\r\n\r\n  \r\nAnother\n   one.\n"
    assert paragraphs_of(text) == ("One line and its end.", "Another one.")


def test_a_text_without_blank_lines_has_a_paragraph_in_each_line() -> None:
    assert paragraphs_of("first\nsecond\n") == ("first", "second")


def test_marks_of_italics_go_and_inner_underscores_stay() -> None:
    assert paragraphs_of("between _them_ and _the others_, snake_case") == ("between them and the others, snake_case",)


def test_files_folders_and_compressed_files_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "books" / "inner"
    folder.mkdir(parents=True)
    (folder / "b.txt.xz").write_bytes(lzma.compress("Größe".encode()))
    (folder.parent / "a.txt").write_text("\ufeffalpha", encoding="utf-8")
    (folder.parent / "notes.md").write_text("not read")
    single = tmp_path / "single"
    single.write_text("one")
    documents = read_sources([str(single), str(folder.parent)])
    assert documents == [
        Document("single", ("one",)),
        Document("a.txt", ("alpha",)),
        Document("b.txt.xz", ("Größe",)),
    ]


def test_a_package_that_carries_texts_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carries_speeches"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "data" / "speech.txt").write_text("Fellow citizens")
    monkeypatch.syspath_prepend(tmp_path)
    assert read_sources(["package:carries_speeches"]) == [Document("speech.txt", ("Fellow citizens",))]


def test_bad_sources_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "binary.txt").write_bytes(b"PK\x03\x04\x00\x00")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "damaged.txt.xz").write_bytes(b"not xz")
    (tmp_path / "cut.txt.xz").write_bytes(lzma.compress(b"text " * 1000)[:40])
    (tmp_path / "folder").mkdir()
    for source, reason in [
        ("gone.txt", r"gone\.txt: no such file or folder"),
        ("empty.txt", r"no text in .*empty\.txt: every file is empty"),
        ("binary.txt", r"binary\.txt: is a binary file, not text"),
        ("latin.txt", r"latin\.txt: is not UTF-8 text \(byte 2 is 0xf6\)"),
        ("damaged.txt.xz", r"damaged\.txt\.xz: is not an xz file, or a damaged one"),
        ("cut.txt.xz", r"cut\.txt\.xz: is not an xz file, or a damaged one"),
        ("folder", r"folder: holds no \.txt or \.txt\.xz file"),
    ]:
        with pytest.raises(CorpusError, match=reason):
            read_sources([str(tmp_path / source)])


@pytest.mark.parametrize("name", ["no_such_package_here", "not a name", ""])
def test_a_package_that_is_not_installed_is_refused(name: str) -> None:
    with pytest.raises(CorpusError, match="no such package is installed"):
        read_sources([f"package:{name}"])


def test_every_paragraph_is_in_exactly_one_part() -> None:
    documents = make_documents()
    parts = split(documents)
    dealt = parts.train + parts.valid + parts.test
    assert sorted(dealt) == sorted(p for document in documents for p in document.paragraphs)
    assert parts.valid
    assert parts.test
    assert len(parts.train) > 0.9 * len(dealt)


def test_the_split_does_not_depend_on_the_order_of_documents() -> None:
    documents = make_documents()
    shuffled = documents[:]
    random.Random(1).shuffle(shuffled)
    assert shuffled != documents
    assert split(shuffled) == split(documents)


def test_held_out_paragraphs_come_in_blocks_of_every_large_document() -> None:
    documents = make_documents(count=2, paragraphs=4000, words=300)
    parts = split(documents)
    for part in (parts.valid, parts.test):
        books = [paragraph.split()[1] for paragraph in part]
        assert set(books) == {"0", "1"}
        numbers = [int(paragraph.split()[3]) for paragraph in part]
        starts = [n for before, n in zip([-9, *numbers], numbers, strict=False) if n != before + 1]
        assert len(numbers) / len(starts) > 10  # 4,000 words in a row, not single paragraphs


def test_too_little_text_to_hold_some_out_is_refused() -> None:
    with pytest.raises(CorpusError, match="too little text: 30 words in 10 paragraphs; at least 31"):
        split([Document("note.txt", ("three little words",) * 10)])
