"""What the parts of a packed state keep to."""

from hiddenstate_exporter.graphs.stack_shape import H_BOUND, StackShape
from hiddenstate_server.bundle import StateBound


def state_bounds(shape: StackShape, output_bound: float, c_bound: float | None = None) -> tuple[StateBound, ...]:
    """Lists what the parts of a state must keep to; without a bound, c may grow."""
    bounds = {"h": H_BOUND, "c": c_bound}
    parts = [
        StateBound(offset=shape.state_offset(layer, part), size=shape.hidden_size, bound=bound)
        for layer in range(shape.num_layers)
        for part in shape.state_parts
        if (bound := bounds[part]) is not None
    ]
    if shape.keeps_output:
        parts.append(StateBound(offset=shape.output_offset, size=shape.output_size, bound=output_bound))
    return tuple(parts)
