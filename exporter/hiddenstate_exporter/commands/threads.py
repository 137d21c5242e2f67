"""How many threads a training takes."""

import os

import click

THREADS = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: as many as torch likes]")


def use_threads(threads: int | None) -> None:
    """Bounds the tokenizer's threads and torch's, which is imported here; None: as many as they like.

    To be called before anything is tokenized.
    """
    if threads is None:
        return
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    import torch

    torch.set_num_threads(threads)
