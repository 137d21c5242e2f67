"""Where and in what precision every kind of model is trained."""

import click

PRECISION = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="float32",
    help="What products are computed in while training; auto: bfloat16 where that is faster.",
)
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="auto: CUDA if there is one."
)
