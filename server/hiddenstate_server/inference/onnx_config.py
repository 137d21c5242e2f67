"""The optional file `config.toml` beside a `model.onnx`: what its graph does not say of itself.

batching = "auto"        # "auto": where rows prove to answer alike alone and together; "on"; "off"
max_batch = 64           # rows of one call and of one run [default: --max-batch]
provider = "cpu"         # [default: --provider]
threads = 1              # of one run [default: --threads]

[inputs.audio]           # all about an input is optional
shape = [-1, 576]        # narrower than the graph has it; -1 stands for any size
batch_axis = 0           # 0 or 1
range = [-1.0, 1.0]      # from what the trial of batching draws values
longest = 4096           # an axis of any size may be no longer, the batch aside
empty = false            # whether an axis of any size may be 0

[inputs.sample_rate]
shared = true            # has no batch axis: calls go together that agree in it

[outputs.speech]
batch_axis = 0

[[state]]                # one for each state tensor; a model with any is stateful
input = "h"              # what goes in here ...
output = "hn"            # ... came out there at the step before
batch_axis = 1           # 0 or 1
shape = [2, -1, 128]     # at a sequence's start, where the graph leaves more than the batch axis open
initial = 0.0            # what a sequence starts from: a number, or lists in the shape of one row's state

[sequences]
idle_limit_s = 60.0      # a sequence without a step for longer is let go
max_bytes = 268435456    # of all sequences; for a new one those are let go that had no step for longest
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from hiddenstate_server.config import MIB
from hiddenstate_server.errors import BundleError
from hiddenstate_server.providers import ProviderName
from hiddenstate_server.schema import schema

CONFIG_FILE: Final = "config.toml"
_MAX_FILE_BYTES: Final = MIB

Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Dim = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
Axis = Literal[0, 1]


class InputConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of an input."""

    shape: tuple[Dim, ...] | None = None
    batch_axis: Axis = 0
    shared: bool = False
    range: tuple[float, float] | None = None
    longest: Size | None = None
    empty: bool = False


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of an output."""

    batch_axis: Axis = 0


class StateConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A state tensor: which input takes up which output of the step before."""

    input: str
    output: str
    batch_axis: Axis
    shape: tuple[Dim, ...] | None = None
    initial: int | float | list[Any] = 0


class SequencesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long and how much state is kept."""

    idle_limit_s: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    max_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**50)] | None = None


@schema
class OnnxConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of the file."""

    batching: Literal["auto", "on", "off"] = "auto"
    max_batch: Size | None = None
    provider: ProviderName | None = None
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] | None = None
    inputs: Mapping[str, InputConfig] = {}
    outputs: Mapping[str, OutputConfig] = {}
    state: tuple[StateConfig, ...] = ()
    sequences: SequencesConfig = SequencesConfig()


def load_config(folder: Path) -> OnnxConfig:
    """Reads the file of a model's folder; where there is none, all is as the graph says.

    Raises:
        BundleError: it cannot be read, is no TOML, or has a key or value that does not belong there.
    """
    path = folder / CONFIG_FILE
    try:
        if not path.exists():
            return OnnxConfig()
        if not path.is_file() or path.stat().st_size > _MAX_FILE_BYTES:
            raise BundleError(f"{path}: is no file of at most {_MAX_FILE_BYTES:,} bytes")
        return msgspec.toml.decode(path.read_bytes(), type=OnnxConfig)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise BundleError(f"{path}: is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: {' '.join(str(error).split())}") from None
