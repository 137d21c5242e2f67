"""A real server of tiny models in a process of its own, for tools that others wrote."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundles import language_model_bundle, sentence_encoder_bundle
from onnx_files import echo_model, scale_model, sum_model
from serve_process import ServeProcess, serve


@contextmanager
def served(*arguments: str) -> Iterator[ServeProcess]:
    """Serves `tiny-lm`, `tiny-encoder`, `echo`, `scale` (y = 2 x) and `sum` (adds up the x of a sequence).

    `arguments` are more of the command.
    """
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        language_model_bundle(models)
        sentence_encoder_bundle(models)
        echo_model(models)
        scale_model(models)
        sum_model(models)
        with serve(models, "--log-calls", "none", *arguments) as server:
            yield server
