"""Runs the graphs of a bundle: arrays in, arrays out. Runner threads may share one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.bundle import Bundle, LanguageModelSpec, SentenceEncoderSpec, StateBound, VariantName
from hiddenstate_server.errors import BundleError
from hiddenstate_server.head_output import HeadOutput
from hiddenstate_server.providers import Provider, make_session

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_USUAL_LENGTH = 20  # tokens of a sentence


class LanguageModelRunner:
    """The two graphs of a language model."""

    def __init__(self, bundle: Bundle, folder: Path, *, variant: VariantName, provider: Provider, threads: int) -> None:
        """Loads the graphs and runs each once.

        Raises:
            BundleError: a graph cannot be loaded, or its inputs or outputs are not those of a language model.
        """
        assert bundle.language_model is not None  # load_bundle has checked
        self.spec: LanguageModelSpec = bundle.language_model
        self.state_bounds: Sequence[StateBound] = bundle.variants[variant].state_bounds
        self._vocab_size = bundle.vocab_size
        graphs = bundle.variants[variant].graphs
        self._recurrent = make_session(folder / graphs["recurrent"], provider, threads)
        self._head = make_session(folder / graphs["head"], provider, threads)
        _check_run(folder, self._warm_up)

    def recur(self, tokens: Ids, state: Floats) -> tuple[Floats, Floats]:
        """Consumes tokens [batch, seq] from states [batch, state_size].

        Returns outputs [batch, seq, output_size] and the next states [batch, state_size].
        """
        batch_size, seq_len = tokens.shape
        lengths = np.full(batch_size, seq_len, dtype=np.int32)
        feed = {"tokens": tokens, "lengths": lengths, "state": state}
        outputs, next_state = self._recurrent.run(["outputs", "next_state"], feed)
        return outputs, next_state

    def head(self, hidden: Floats, *, k: int, targets: Ids, ranks: Ids | None) -> HeadOutput:
        """Answers the k best of each row and the log probability of its target.

        Args:
            hidden: [rows, output_size]
            targets: [rows] token ids
            ranks: [rows, 2] low and high rank of the words that may be candidates; None lets all be.
        """
        rows = ranks if ranks is not None else np.zeros((len(hidden), 2), dtype=np.int64)
        feed = {
            "hidden": hidden,
            "k": np.array([k], dtype=np.int64),
            "targets": targets,
            "restrict": np.array(ranks is not None),
            "rank_low": np.ascontiguousarray(rows[:, 0]),
            "rank_high": np.ascontiguousarray(rows[:, 1]),
        }
        return HeadOutput(*self._head.run(["top_log_probs", "top_ids", "target_log_probs"], feed))

    def trial(self, batch_size: int) -> Sequence[Floats]:
        """Takes contexts one token further and asks for the next words: the step that most requests consist of."""
        tokens = _draw_tokens(self._vocab_size, batch_size, 1)
        state = np.zeros((batch_size, self.spec.state_size), dtype=np.float32)
        outputs, next_state = self.recur(tokens, state)
        head = self.head(outputs[:, -1], k=min(5, self._vocab_size), targets=tokens[:, 0], ranks=None)
        return outputs, next_state, head.target_log_probs

    def _warm_up(self) -> None:
        tokens = np.zeros((2, 3), dtype=np.int64)
        outputs, next_state = self.recur(tokens, np.zeros((2, self.spec.state_size), dtype=np.float32))
        _check_floats("outputs", outputs, (2, 3, self.spec.output_size))
        _check_floats("next_state", next_state, (2, self.spec.state_size))
        k = min(3, self._vocab_size)
        for ranks in (None, np.array([[0, 1], [0, self._vocab_size]], dtype=np.int64)):
            output = self.head(outputs[:, -1], k=k, targets=np.zeros(2, dtype=np.int64), ranks=ranks)
            _check_floats("top_log_probs", output.top_log_probs, (2, k))
            _check_shape("top_ids", output.top_ids, (2, k))
            _check_floats("target_log_probs", output.target_log_probs, (2,))


class EncoderRunner:
    """The graph of a sentence encoder."""

    def __init__(self, bundle: Bundle, folder: Path, *, variant: VariantName, provider: Provider, threads: int) -> None:
        """Loads the graph and runs it once.

        Raises:
            BundleError: the graph cannot be loaded, or its inputs or outputs are not those of a sentence encoder.
        """
        assert bundle.sentence_encoder is not None  # load_bundle has checked
        self.spec: SentenceEncoderSpec = bundle.sentence_encoder
        self._vocab_size = bundle.vocab_size
        self._encoder = make_session(folder / bundle.variants[variant].graphs["encoder"], provider, threads)
        _check_run(folder, self._warm_up)

    def encode(self, tokens: Ids, lengths: NDArray[np.int32]) -> Floats:
        """Takes tokens [batch, seq], padded at the end, and their lengths [batch] to embeddings [batch, dimension]."""
        embeddings: Floats = self._encoder.run(["embeddings"], {"tokens": tokens, "lengths": lengths})[0]
        return embeddings

    def trial(self, batch_size: int) -> Sequence[Floats]:
        """Encodes sentences of a usual length."""
        tokens = _draw_tokens(self._vocab_size, batch_size, min(_USUAL_LENGTH, self.spec.max_seq_length))
        return (self.encode(tokens, np.full(batch_size, tokens.shape[1], dtype=np.int32)),)

    def _warm_up(self) -> None:
        embeddings = self.encode(np.zeros((2, 3), dtype=np.int64), np.array([3, 1], dtype=np.int32))
        _check_floats("embeddings", embeddings, (2, self.spec.dimension))


def _draw_tokens(vocab_size: int, batch_size: int, seq_len: int) -> Ids:
    """Draws tokens [batch, seq], always the same."""
    return np.random.default_rng(0).integers(vocab_size, size=(batch_size, seq_len))


def _check_run(folder: Path, run: Callable[[], None]) -> None:
    try:
        run()
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from None
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
        raise BundleError(
            f"{folder}: a graph does not run as its kind demands: {' '.join(str(error).split())}"
        ) from None


def _check_floats(name: str, array: Floats, shape: tuple[int, ...]) -> None:
    """Checks an output whose bytes are sent and kept as they are."""
    if array.dtype != np.float32:
        raise BundleError(f"the graph's output {name} is {array.dtype} where float32 is due")
    _check_shape(name, array, shape)


def _check_shape(name: str, array: Floats | Ids, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise BundleError(f"the graph's output {name} has shape {list(array.shape)} where {list(shape)} is due")
