"""Runs the graphs of a bundle: arrays in, arrays out. Runner threads may share one."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.binding import BoundLanguageModel, Outputs
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
        self._device = provider.device
        self._bound = threading.local()  # a BoundLanguageModel for each thread
        _check_run(folder, self._warm_up)

    def recur(self, tokens: Ids, state: Floats) -> tuple[Outputs, Floats]:
        """Consumes tokens [batch, seq] from states [batch, state_size].

        Returns outputs [batch, seq, output_size] and the next states [batch, state_size]. Both are good until this
        thread calls again.
        """
        return self._bound_here().recur(tokens, state)

    def head(self, hidden: Outputs | Floats, *, k: int, targets: Ids | None, ranks: Ids | None) -> HeadOutput:
        """Answers the k best of each row and the log probability of its target.

        Args:
            hidden: [rows, output_size], or the outputs of one token each
            targets: [rows] token ids; None where nobody looks at their log probabilities
            ranks: [rows, 2] low and high rank of the words that may be candidates; None lets all be.
        """
        return self._bound_here().head(hidden, k=k, targets=targets, ranks=ranks)

    def trial(self, batch_size: int) -> Sequence[Floats]:
        """Takes contexts one token further and asks for the next words: the step that most requests consist of."""
        tokens = _draw_tokens(self._vocab_size, batch_size, 1)
        outputs, next_state = self.recur(tokens, np.zeros((batch_size, self.spec.state_size), dtype=np.float32))
        head = self.head(outputs, k=min(5, self._vocab_size), targets=tokens[:, 0].copy(), ranks=None)
        return outputs.array().copy(), next_state.copy(), head.target_log_probs

    def _bound_here(self) -> BoundLanguageModel:
        try:
            bound: BoundLanguageModel = self._bound.model
        except AttributeError:
            bound = self._bound.model = BoundLanguageModel(
                self._recurrent, self._head, self._device, state_size=self.spec.state_size
            )
        return bound

    def _warm_up(self) -> None:
        """Runs each graph without memory of its own first: what a graph puts out is not known to be what is due."""
        tokens = np.zeros((2, 3), dtype=np.int64)
        state = np.zeros((2, self.spec.state_size), dtype=np.float32)
        feed = {"tokens": tokens, "lengths": np.full(2, 3, dtype=np.int32), "state": state}
        outputs, next_state = self._recurrent.run(["outputs", "next_state"], feed)
        _check_floats("outputs", outputs, (2, 3, self.spec.output_size))
        _check_floats("next_state", next_state, (2, self.spec.state_size))
        self.recur(tokens, state)
        k = min(3, self._vocab_size)
        for ranks in (None, np.array([[0, 1], [0, self._vocab_size]], dtype=np.int64)):
            output = self.head(outputs[:, -1], k=k, targets=None, ranks=ranks)
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
