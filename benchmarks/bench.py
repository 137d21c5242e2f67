"""What all cases need: servers with a model, loads on them, and the same model without a server."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks import in_process, processes
from benchmarks.bundles import Name
from benchmarks.in_process import Loop
from benchmarks.load import Load, measure
from benchmarks.profile import Profile
from benchmarks.results import Comparison, compare
from benchmarks.samples import Measured
from hiddenstate_server.bundle import VariantName

Run = Callable[[], Measured]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """How to measure."""

    models: Mapping[Name, Path]
    variant: VariantName
    rounds: int
    seconds: float
    seed: int
    with_peers: bool
    serve_options: tuple[str, ...] = ()
    profile: Profile | None = None

    def serve(
        self, stack: ExitStack, name: Name, *options: str, variant: VariantName | None = None, interpreted: bool = False
    ) -> processes.Serving:
        """Starts hiddenstate with a model until the stack ends."""
        options = ("--variant", variant or self.variant, *self.serve_options, *options)
        return stack.enter_context(processes.hiddenstate(self.models[name], *options, interpreted=interpreted))

    def load(self, server: processes.Serving, **more: object) -> Run:
        """Returns a load on a server, to be measured each round."""
        values = {"seconds": self.seconds, "seed": self.seed, "parts": self.rounds, **more}
        parts = itertools.count()

        def run() -> Measured:
            load = Load(address=server.address, server_pid=server.pid, part=next(parts), **values)  # type: ignore[arg-type]
            if self.profile:
                return self.profile.during(load, lambda: measure(load))
            return measure(load)

        return run

    def bound(self, name: Name, **more: object) -> Run:
        """Returns the in-process bound of a model, to be measured each round."""
        values = {"seconds": self.seconds / 2, "seed": self.seed, "variant": self.variant, **more}
        loop = Loop(models=str(self.models[name]), **values)  # type: ignore[arg-type]

        def run() -> Measured:
            bound = in_process.measure(loop)
            return Measured(per_s=bound.per_s, note=f"best: {bound.how}")

        return run

    def compare(self, case: str, contenders: Mapping[str, Run], bounds: Mapping[str, str] | None = None) -> Comparison:
        """Measures contenders in turn, round after round."""
        return compare(case, contenders, self.rounds, bounds)
