"""g2p-en: weights without a graph, and code in numpy that spells a word phoneme after phoneme. The graphs are made
here; the state of its GRU decoder stays on the server.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, Final
from unittest.mock import MagicMock

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from packages import module, package
from remote_model import RemoteModel, models_of, side_by_side
from running import check, main

from onnx_graphs import node, port, write_graph

Floats = NDArray[np.float32]
MOCKED: Final = ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")  # for what is not compared here
BEGIN, END, LONGEST = 2, 3, 20  # of phonemes
DECODER_CONFIG = '[[state]]\ninput = "h"\noutput = "next_h"\nbatch_axis = 1\n'
SPELT: Final = "activationist hiddenstate quokka zyzzyva grapheme recurrent servelets gated onnx kiwi"


def gru_graph(folder: Path, weights: Any, part: str) -> None:
    """Writes g2p-en's encoder (letters to a state), or its decoder (a phoneme and a state to scores and a state)."""

    def gates(name: str) -> Floats:
        """Brings gates from g2p-en's order, r z n, to that of ONNX, z r n."""
        r, z, n = np.split(weights[f"{part}_{name}"].astype(np.float32), 3)
        return np.concatenate([z, r, n])

    constants = {
        "table": weights[f"{part}_emb"].astype(np.float32),
        "W": gates("w_ih")[np.newaxis],
        "R": gates("w_hh")[np.newaxis],
        "B": np.concatenate([gates("b_ih"), gates("b_hh")])[np.newaxis],
        "zero": np.array([0]),
    }
    embed = [node("Gather", ["table", "ids"], ["rows"]), node("Transpose", ["rows"], ["x"], perm=[1, 0, 2])]
    hidden_size = constants["R"].shape[-1]
    gru = {"hidden_size": hidden_size, "linear_before_reset": 1}
    ids = port("ids", ["batch", "seq"], TensorProto.INT64)
    if part == "enc":
        nodes = [*embed, node("GRU", ["x", "W", "R", "B"], ["", "last"], **gru)]
        nodes += [node("Squeeze", ["last", "zero"], ["h"])]
        write_graph(folder, nodes, [ids], [port("h", ["batch", hidden_size])], constants)
        return
    state = [1, "batch", hidden_size]
    constants |= {"fc_w": weights["fc_w"].T.astype(np.float32), "fc_b": weights["fc_b"].astype(np.float32)}
    nodes = [
        *embed,
        node("Unsqueeze", ["begin", "zero"], ["first"]),
        node("Add", ["h", "first"], ["before"]),  # a sequence's state begins at 0
        node("GRU", ["x", "W", "R", "B", "", "before"], ["", "next_h"], **gru),
        node("Squeeze", ["next_h", "zero"], ["flat"]),
        node("Gemm", ["flat", "fc_w", "fc_b"], ["scores"]),
    ]
    inputs = [ids, port("begin", ["batch", hidden_size]), port("h", state)]
    outputs = [port("scores", ["batch", len(weights["fc_b"])]), port("next_h", state)]
    write_graph(folder, nodes, inputs, outputs, constants, config=DECODER_CONFIG)


def spell(encoder: RemoteModel, decoder: RemoteModel, original: Any, word: str) -> list[str]:
    """Says a word as g2p-en does, phoneme after phoneme."""
    letters = [original.g2idx.get(letter, original.g2idx["<unk>"]) for letter in [*word, "</s>"]]
    begin = encoder({"ids": np.array([letters])})["h"]
    phoneme, spelt = BEGIN, []
    for position in range(LONGEST):
        inputs = {"ids": np.array([[phoneme]]), "begin": begin if position == 0 else np.zeros_like(begin)}
        scores = decoder(inputs, sequence=word, start=position == 0, end=position == LONGEST - 1)["scores"]
        phoneme = int(scores.argmax())
        if phoneme == END:
            break
        spelt.append(original.idx2p[phoneme])
    return spelt


def script() -> None:
    """Spells words with g2p-en's own code and on the server."""
    sys.modules.update({name: MagicMock() for name in MOCKED})
    package("g2p-en==2.1.0")
    original = module("g2p_en.g2p").G2p()
    words = [*SPELT.split(), *(one + other for one in SPELT.split() for other in SPELT.split())]
    with tempfile.TemporaryDirectory() as name:
        for part in ("enc", "dec"):
            gru_graph(Path(name) / part / "1", original.variables, part)
        with models_of(Path(name)) as models:
            encoder, decoder = models("enc"), models("dec")
            spelt = side_by_side(lambda word: spell(encoder, decoder, original, word), words)
    same = [one == original.predict(word) for word, one in zip(words, spelt, strict=True)]
    check("words that are spelt as by g2p-en", sum(same), len(words))
    print(f"  for example {words[0]}: {' '.join(spelt[0])}")


if __name__ == "__main__":
    main(script)
