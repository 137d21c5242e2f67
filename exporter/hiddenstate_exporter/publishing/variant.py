"""Adds a variant of graphs to a bundle, if it passes its checks and is as good as the float32 one."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from hiddenstate_exporter.publishing.build import finite
from hiddenstate_exporter.publishing.evaluation import Track
from hiddenstate_exporter.publishing.measurement import Data, check_close, measure
from hiddenstate_server.bundle import Bundle, Variant, VariantName, write_bundle


class VariantError(ValueError):
    """A model cannot have a variant, or not without data to measure it on."""


def add_variant(
    folder: Path, bundle: Bundle, name: VariantName, build: Callable[[], Variant], data: Data, *, track: Track = iter
) -> Bundle:
    """Has a variant built in a bundle's folder, measures it, and returns the larger bundle.

    Args:
        folder: The folder of a bundle with float32 graphs.
        bundle: That bundle, whose metrics are those on `data`.
        name: What the variant is called.
        build: Writes its graphs into the folder and checks them; files that it leaves there are removed if it fails.
        data: What to measure on.
        track: Goes through long measurements.

    Raises:
        VariantError: there is nothing to measure on.
        MeasurementError: the numbers on the data are not those of the float32 graphs.
        ValueError: what `build` raises.
    """
    _check_data(bundle, data)
    before = set(folder.iterdir())
    try:
        variant = build()
        metrics = measure(folder, _with(bundle, name, variant), data, variant=name, track=track).onnx
        check_close((f"{name} graphs", metrics), ("float32 graphs", bundle.metrics), name)
    except BaseException:
        for path in set(folder.iterdir()) - before:
            path.unlink()
        raise
    return write_bundle(_with(bundle, name, msgspec.structs.replace(variant, metrics=finite(metrics))), folder)


def _with(bundle: Bundle, name: VariantName, variant: Variant) -> Bundle:
    return msgspec.structs.replace(bundle, variants={**bundle.variants, name: variant})


def _check_data(bundle: Bundle, data: Data) -> None:
    if bundle.kind == "language_model" and not data.sources:
        raise VariantError("its perplexity must be seen first: give text that training held out with --data")
    if bundle.kind == "sentence_encoder" and data.sts is None:
        raise VariantError("its rank correlation must be seen first: give sentence pairs with --sts")
