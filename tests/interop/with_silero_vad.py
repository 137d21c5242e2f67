"""silero-vad: a graph whose state goes from one frame of audio to the next. Its own code keeps it in a loop; here the
server does, for many callers at a time.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from packages import module, package
from remote_model import RemoteModel, models_of, side_by_side
from running import check, main

Floats = NDArray[np.float32]
CALLERS: Final = 24
TOLERANCE: Final = 1e-5

VAD_CONFIG = """
batching = "on"  # a trial cannot guess how long a frame is; tests show that rows answer alike
[[state]]
input = "state"
output = "stateN"
batch_axis = 1
"""
# Fixed frames can be tried.
VAD_16K_CONFIG = """
[inputs.input]
shape = [-1, 576]
range = [-1.0, 1.0]
[inputs.sr]
range = [16000, 16000]
[[state]]
input = "state"
output = "stateN"
batch_axis = 1
"""
FRAME: Final = {16000: (512, 64), 8000: (256, 32)}  # samples of a frame, and of the one before that come along


def audio(seed: int, rate: int, frames: int) -> Floats:
    """Buzzing in bursts, which the model takes for speech here and there."""
    random = np.random.default_rng(seed)
    time = np.arange(frames * FRAME[rate][0]) / rate
    pitch = 110 + 60 * np.sin(2 * np.pi * (0.5 + seed / 10) * time)
    voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / rate) / k for k in range(1, 12))
    loud = np.sin(2 * np.pi * 1.3 * time + seed) > 0
    return np.asarray(0.2 * voice * loud + 0.01 * random.normal(size=time.size), np.float32)


def stream_vad(model: RemoteModel, id: int | str, samples: Floats, rate: int) -> Floats:
    """Sends one frame after the other."""
    size, before = FRAME[rate]
    padded = np.concatenate([np.zeros(before, np.float32), samples])
    starts = range(0, len(samples), size)
    answers = [
        model(
            {"input": padded[np.newaxis, start : start + before + size], "sr": np.array([rate])},
            sequence=id,
            start=start == 0,
            end=start == starts[-1],
        )["output"][0, 0]
        for start in starts
    ]
    return np.array(answers)


def script() -> None:
    """Holds both configs against silero-vad's own loop."""
    graph = package("silero-vad==6.2.3") / "silero_vad" / "data" / "silero_vad.onnx"
    compare("any rate", graph, VAD_CONFIG, (16000, 8000))
    compare("16 kHz", graph, VAD_16K_CONFIG, (16000,))


def compare(what: str, graph: Path, config: str, rates: Sequence[int]) -> None:
    """Streams audio of many callers at a time and compares each frame."""
    rate_of = [rates[caller % len(rates)] for caller in range(CALLERS)]
    samples = [audio(caller, rate, 20 + 3 * caller) for caller, rate in enumerate(rate_of)]
    ids = [caller + 1 if caller % 3 else f"caller {caller}" for caller in range(CALLERS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "vad" / "1"
        folder.mkdir(parents=True)
        shutil.copy(graph, folder / "model.onnx")
        (folder / "config.toml").write_text(config)
        with models_of(Path(name)) as models:
            answers = side_by_side(lambda *each: stream_vad(models("vad"), *each), ids, samples, rate_of)
            together = models("vad").rows_per_run()
    expected = [own_loop(graph, *each) for each in zip(samples, rate_of, strict=True)]
    worst = max(float(np.abs(one - other).max()) for one, other in zip(answers, expected, strict=True))
    heard = np.concatenate(answers)
    check(f"{what}: frames", len(heard), sum(map(len, expected)))
    check(f"{what}: frames of several callers go together ({together:.2f} a run)", together > 1, True)
    check(f"{what}: within {TOLERANCE} of its own loop ({worst:.1e})", worst <= TOLERANCE, True)
    share = float(np.mean(heard > 0.5))
    check(f"{what}: speech and silence are told apart ({share:.0%} speech)", 0.02 < share < 0.98, True)


def own_loop(graph: Path, samples: Floats, rate: int) -> Floats:
    """Asks silero-vad's own code, which carries the state along in PyTorch."""
    torch, code = module("torch"), module("silero_vad.utils_vad")
    probabilities: Floats = code.OnnxWrapper(str(graph)).audio_forward(torch.from_numpy(samples)[None], rate)[0].numpy()
    return probabilities


if __name__ == "__main__":
    main(script)
