"""Sends 100,000 inputs that nobody should send: `python tests/fuzz/run.py [--inputs N] [--seed N]`, for every night.

Exit code 0 means that no input was answered INTERNAL, hung or broke the server. What was is printed with the bytes.
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
from fuzz.attack import Findings, attack_bundles, attack_calls, attack_frames
from hiddenstate.v1.language_model_pb2 import PredictRequest
from serving import serving

_SHARE_OF_FRAMES = 50  # one connection for so many messages
_SHARE_OF_BUNDLES = 10


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="Messages; frames and bundles come on top.")
@click.option("--seed", type=int, help="Draws the same inputs again.  [default: another each time]")
def main(inputs: int, seed: int | None) -> None:
    """Attack a server of tiny models."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        findings = asyncio.run(_attack(Path(folder), inputs, seed))
    for outcome, count in sorted(findings.codes.items()):
        print(f"{count:8,} {outcome}")
    print(f"{inputs:,} messages in {time.monotonic() - started:.0f} s; {len(findings.faults)} faults")
    for fault in findings.faults[:20]:
        print(fault)
    sys.exit(bool(findings.faults))


async def _attack(folder: Path, inputs: int, seed: int) -> Findings:
    language_model_bundle(folder / "models")
    sentence_encoder_bundle(folder / "models")
    async with serving(folder / "models", log_calls="none") as wire:
        findings = await attack_calls(wire, count=inputs, seed=seed)
        await attack_frames(wire, count=max(1, inputs // _SHARE_OF_FRAMES), seed=seed)
        await wire.language_model.Predict(PredictRequest(text="I would"), timeout=10)
    attack_bundles(language_model_bundle(folder / "bundle"), count=max(1, inputs // _SHARE_OF_BUNDLES), seed=seed)
    return findings


if __name__ == "__main__":
    main()
