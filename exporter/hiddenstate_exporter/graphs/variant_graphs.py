"""The graphs of a variant, before they are compared with PyTorch."""

from dataclasses import dataclass, field

from hiddenstate_server.bundle import Parity, StateBound, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantGraphs:
    """Graphs that were written beside the float32 ones, and what they rely on; the fields are those of `Variant`."""

    graphs: dict[str, str]  # graph -> file
    activation_bounds: dict[str, float] = field(default_factory=dict)  # value -> largest absolute value
    state_bounds: tuple[StateBound, ...] = ()
    weight_bits: int = 8

    def compared(self, parity: Parity) -> Variant:
        """Returns what a bundle says of them once they were compared."""
        return Variant(
            graphs=self.graphs,
            parity=parity,
            activation_bounds=self.activation_bounds,
            state_bounds=self.state_bounds,
            weight_bits=self.weight_bits,
        )
