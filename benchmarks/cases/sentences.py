"""Sentences through an encoder: bidirectional LSTM-256 with max pooling."""

from contextlib import ExitStack

from benchmarks import peers
from benchmarks.bench import Bench, Run
from benchmarks.bundles import bundle_folder
from benchmarks.results import BOUND, LIMIT, OURS, Outcome
from hiddenstate_server.bundle import VariantName

_TRITON = 0.64  # of the bound: Triton 2.51, C++ ONNX Runtime backend, on a machine like the one this was asked for
_CLIENT = {"fp32": 0.88, "int8": 0.85}
_INT8_GAIN = 2.5
_BULK, _BULK_GAIN = 0.95, 1.5


def unary_encode(bench: Bench) -> Outcome:
    """One sentence of 20 words a call, 32 callers."""
    with ExitStack() as stack:
        ours = bench.serve(stack, "encoder")
        contenders = {
            BOUND: bench.bound("encoder", kind="encode"),
            OURS: bench.load(ours, kind="encode", callers=32),
        }
        if bench.with_peers:
            contenders |= _unary_peers(bench, stack)
        found = bench.compare("unary Encode, 32 callers", contenders)
        return Outcome(found.rows(), [found.at_least(_TRITON, OURS)] if bench.variant == "fp32" else [])


def client_encode(bench: Bench) -> Outcome:
    """The thin client, 64 concurrent encode calls of one sentence; with int8 beside fp32."""
    variants: tuple[VariantName, ...] = ("fp32", "int8") if bench.variant == "int8" else (bench.variant,)
    contenders: dict[str, Run] = {}
    bounds: dict[str, str] = {}
    with ExitStack() as stack:
        for variant in variants:
            ours = bench.serve(stack, "encoder", variant=variant)
            bound = f"{BOUND}, {variant}"
            contenders[bound] = bench.bound("encoder", kind="encode", batch_sizes=(32, 64), variant=variant)
            for kind in ("tasks", "threads"):
                contenders[f"{OURS}, {kind}, {variant}"] = bench.load(ours, kind=kind, callers=64)
            bounds |= dict.fromkeys(contenders.keys() - bounds, bound)
        if bench.with_peers:
            echo = stack.enter_context(peers.echo())
            contenders[f"{LIMIT}: the client's own limit, tasks"] = bench.load(echo, kind="tasks", callers=64)
        found = bench.compare("thin client, 64 encode calls at a time", contenders, bounds)
    measured = [name for name in contenders if name.startswith(OURS)]
    aims = [found.at_least(_CLIENT[name.rpartition(" ")[2]], name) for name in measured]
    if bench.variant == "int8":
        int8, fp32 = (f"{OURS}, tasks, {variant}" for variant in ("int8", "fp32"))
        aims.append(found.at_least(_INT8_GAIN, int8, to=fp32, what="int8: rate, of fp32's"))
    return Outcome(found.rows(), aims)


def bulk_encode(bench: Bench) -> Outcome:
    """One encode call of the thin client for 20,000 sentences of natural length mix."""
    best, unsorted = f"{BOUND}, best batching found", f"{BOUND}, unsorted"
    with ExitStack() as stack:
        ours = bench.serve(stack, "encoder")
        found = bench.compare(
            "bulk encode, 20,000 sentences of natural lengths",
            {
                best: bench.bound(
                    "encoder", kind="bulk", batch_sizes=(16, 32, 64, 128), batch_tokens=(512, 1024, 2048)
                ),
                unsorted: bench.bound("encoder", kind="bulk", batch_sizes=(16, 32, 64), sort=False),
                OURS: bench.load(ours, kind="bulk"),
            },
        )
    return Outcome(
        found.rows(),
        [
            found.at_least(_BULK, OURS),
            found.at_least(_BULK_GAIN, OURS, to=unsorted, what=f"{OURS}: rate, of unsorted batches"),
        ],
    )


def _unary_peers(bench: Bench, stack: ExitStack) -> dict[str, Run]:
    """Returns the peers, and the server without a model; their graphs are fp32."""
    bundle = bundle_folder(bench.models["encoder"])
    echo = bench.load(stack.enter_context(peers.echo()), kind="encode", callers=32)
    if bench.variant != "fp32":
        return {f"{LIMIT}: the load's own limit": echo}
    return {
        "plain grpc.aio": bench.load(stack.enter_context(peers.plain_grpc(bundle)), kind="encode", callers=32),
        "MLServer (gRPC)": bench.load(stack.enter_context(peers.mlserver(bundle)), kind="infer", callers=32),
        "mosec (HTTP)": bench.load(stack.enter_context(peers.mosec(bundle)), kind="http", callers=32),
        f"{LIMIT}: the load's own limit": echo,
    }
