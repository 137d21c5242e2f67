"""Sends and leaves inputs that nobody should: `python tests/fuzz/run.py [--inputs N] [--seed N]`, for every night.

Exit code 0 means that no input was answered INTERNAL, hung, broke the server, took its memory or was refused in a way
that tells nobody anything. What was is printed, with the bytes or with the seed and number that draw it again.
"""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundles import language_model_bundle, sentence_encoder_bundle
from fuzz.attack import attack_calls, attack_frames
from fuzz.children import attack_files
from fuzz.files import ATTACKS
from fuzz.findings import Findings
from hiddenstate.v1.language_model_pb2 import PredictRequest
from serving import serving

_SHARE_OF_FRAMES = 50  # one connection for so many messages
_SHARE_OF_FILES = 10  # one file of each kind for so many messages


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="Messages; frames and files come on top.")
@click.option("--seed", type=int, help="Draws the same inputs again.  [default: another each time]")
def main(inputs: int, seed: int | None) -> None:
    """Attack a server of tiny models, and what reads the files that a server is given."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        findings = [asyncio.run(_attack(Path(folder), inputs, seed))]
        _tell(f"{inputs:,} messages", findings[0], started)
    for kind in ATTACKS:
        started = time.monotonic()
        count = max(1, inputs // _SHARE_OF_FILES)
        findings.append(attack_files(kind, count=count, seed=seed))
        _tell(f"{count:,} inputs of the kind {kind}", findings[-1], started)
    sys.exit(any(found.faults for found in findings))


def _tell(what: str, findings: Findings, started: float) -> None:
    for outcome, count in sorted(findings.codes.items()):
        print(f"{count:8,} {outcome}")
    print(f"{what} in {time.monotonic() - started:.0f} s; {len(findings.faults)} faults", flush=True)
    for fault in findings.faults[:20]:
        print(fault, flush=True)


async def _attack(folder: Path, inputs: int, seed: int) -> Findings:
    language_model_bundle(folder / "models")
    sentence_encoder_bundle(folder / "models")
    async with serving(folder / "models", log_calls="none") as wire:
        findings = await attack_calls(wire, count=inputs, seed=seed)
        await attack_frames(wire, count=max(1, inputs // _SHARE_OF_FRAMES), seed=seed)
        await wire.language_model.Predict(PredictRequest(text="I would"), timeout=10)
    return findings


if __name__ == "__main__":
    main()
