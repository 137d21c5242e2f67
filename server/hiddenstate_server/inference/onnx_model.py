"""An ONNX file being served: any one, with or without a state."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hiddenstate_server import admission
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import BundleError, InvalidRequestError, ServingError
from hiddenstate_server.inference.admission import Admission
from hiddenstate_server.inference.batching import Batching, find_batching
from hiddenstate_server.inference.input_check import InputCheck
from hiddenstate_server.inference.kept_states import KeptStates
from hiddenstate_server.inference.onnx_config import CONFIG_FILE, OnnxConfig, SequencesConfig, load_config
from hiddenstate_server.inference.onnx_file import external_files
from hiddenstate_server.inference.onnx_runner import OnnxRunner, OnnxStep
from hiddenstate_server.inference.sequences import OVERHEAD_BYTES, Sequences
from hiddenstate_server.inference.shape_queue import Call, ShapeQueue, fits
from hiddenstate_server.inference.signature import Port, Signature, read_signature
from hiddenstate_server.inference.statistics import Statistics
from hiddenstate_server.inference.tensor_memory import session_entries
from hiddenstate_server.inference.tensors import SequenceStep, Tensors, TensorSpec
from hiddenstate_server.inference.trial import row_trial
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.providers import choose_provider, make_session
from hiddenstate_server.scheduler import Scheduler

ONNX_FILE: Final = "model.onnx"

_log = logging.getLogger(__name__)


class OnnxModel:
    """A tensor model (see `tensors.TensorModel`). All methods but `load` belong to the event loop."""

    platform: Final = "onnxruntime_onnx"

    def __init__(
        self,
        name: str,
        version: str,
        runner: OnnxRunner,
        signature: Signature,
        batching: Batching,
        *,
        config: OnnxConfig,
        provider: str,
        settings: EngineSettings,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name = name
        self.version = version
        self.provider = provider
        self.batching = batching
        self.max_batch_size = batching.max_batch if _has_rows_first(signature) else 0
        self.inputs: Sequence[TensorSpec] = tuple(self._input_spec(port) for port in signature.inputs)
        self.outputs: Sequence[TensorSpec] = tuple(_output_spec(port, batching) for port in signature.outputs)
        self.stateful = bool(signature.states)
        self.sequences: Sequences[Tensors] = _sequences(config.sequences, settings)
        self.statistics = Statistics()
        self._labels = {"model": name, "version": version}
        self._counts = metrics.of_model(name, version)
        queue = metrics.queues.of_model(
            name, version, max_rows=max(1, batching.max_batch), max_tokens=settings.max_waiting_tokens
        )
        self._admission = Admission(name, max_size=settings.max_waiting_tokens, refusals=queue.refusals)
        self._axes = signature.axes
        self._check = InputCheck(name, signature, max_batch=batching.max_batch)
        self._states = KeptStates(name, signature.states, self.sequences)
        self._state_outputs = [state.output.name for state in signature.states]
        self.scheduler = Scheduler(
            model=name,
            version=version,
            waiting=ShapeQueue(max_batch=batching.max_batch, releases=queue.releases),
            step=OnnxStep(runner, signature.axes, self.statistics, metrics=metrics, **self._labels),
            admission=admission.Admission(
                max_waiting_tokens=settings.max_waiting_tokens,
                full_batch=max(1, batching.max_batch),
                refusals=queue.refusals,
            ),
            loop=loop,
            metrics=metrics,
            trial=row_trial(signature, runner),
        )
        metrics.watch_scheduler(**self._labels, scheduler=self.scheduler)
        if self.stateful:
            metrics.sequences.watch(**self._labels, sequences=self.sequences)

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        version: str,
        settings: EngineSettings,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
    ) -> "OnnxModel":
        """Loads `model.onnx` of a folder, and `config.toml` if it has one. Takes its time, on any thread.

        Raises:
            BundleError: the graph cannot be loaded or served, or the config does not fit it.
            ConfigError: the provider does not work.
        """
        config, path = load_config(folder), folder / ONNX_FILE
        external_files(path)
        provider = choose_provider(config.provider or settings.provider, path)
        session = make_session(
            path,
            provider,
            settings.threads if config.threads is None else config.threads,
            session_entries(settings.max_tensor_memory),
        )
        try:
            signature = read_signature(session.get_inputs(), session.get_outputs(), config)
            _check_room(signature, _max_bytes(config.sequences, settings))
            runner = OnnxRunner(session, signature)
            batching = find_batching(config, signature, runner, config.max_batch or settings.max_batch)
            _check_states(signature, batching)
        except BundleError as error:
            raise BundleError(f"{folder}: {error}") from None
        except UnicodeDecodeError:
            raise BundleError(f"{path}: the name of an input, an output or one of their axes is not UTF-8") from None
        rows = f"up to {batching.max_batch} rows go together" if batching.max_batch else "each call runs by itself"
        _log.info("%s %s: %s: %s", name, version, rows, batching.reason)
        return cls(
            name,
            version,
            runner,
            signature,
            batching,
            config=config,
            provider=provider.name,
            settings=settings,
            metrics=metrics,
            loop=loop,
        )

    @property
    def sequence_idle_s(self) -> float:
        """How long a sequence may be silent before it is let go; 0 where there are none."""
        return self.sequences.idle_limit_s if self.stateful else 0.0

    async def infer(
        self,
        inputs: Tensors,
        *,
        outputs: Sequence[str] = (),
        deadline: float = math.inf,
        sequence: SequenceStep | None = None,
        is_bulk: bool = False,
    ) -> Tensors:
        """Answers the outputs that are named, or all, in that order. A model without a state ignores the sequence.

        Raises:
            ServingError: see `tensors.TensorModel`.
        """
        started_at = time.perf_counter_ns()
        try:
            wanted = self._wanted(outputs)
            call = self._admit(inputs, wanted, deadline, sequence, is_bulk)
            try:
                await (self._states.run(call, sequence, self._run) if self.stateful else self._run(call))
            finally:
                self._admission.leave(call.size)
        except BaseException:
            self.statistics.failed(total_ns=time.perf_counter_ns() - started_at)
            raise
        self._account(call, time.perf_counter_ns() - started_at)
        return {name: call.answer[name] for name in wanted}

    async def drain(self) -> None:
        """Refuses new calls and returns when all are over, those too that wait for their turn in a sequence."""
        await self._admission.close()
        await self.scheduler.drain()

    def close(self) -> None:
        """Ends the runner thread and forgets all sequences."""
        self.scheduler.close()
        self.sequences.close()

    def _wanted(self, outputs: Sequence[str]) -> Sequence[str]:
        there = [spec.name for spec in self.outputs]
        for name in outputs:
            if name not in there:
                raise InvalidRequestError(
                    f"output {name[:64]!r}: {self.name} has none of that name; it gives {', '.join(there) or 'none'}"
                )
        return list(dict.fromkeys(outputs)) or there

    def _admit(
        self,
        inputs: Tensors,
        wanted: Sequence[str],
        deadline: float,
        sequence: SequenceStep | None,
        is_bulk: bool,
    ) -> Call:
        try:
            checked, rows = self._check(inputs)
            size = _kib(checked)
            self._admission.enter(size)
        except ServingError:
            if sequence:
                self.sequences.refuse(sequence)
            raise
        outputs = [*wanted, *self._state_outputs]
        return Call(size, deadline, is_bulk, inputs=checked, outputs=outputs, rows=rows)

    async def _run(self, call: Call) -> None:
        call.fits = fits(call.inputs, self._axes) if self.batching.max_batch else None
        await self.scheduler.run(call)

    def _account(self, call: Call, total_ns: int) -> None:
        self.statistics.succeeded(
            rows=call.rows, total_ns=total_ns, queue_ns=round(call.queue_s() * 1e9), times=call.times
        )
        self._counts.request_done(call.queue_s(), call.compute_s, 0, 0)

    def _input_spec(self, port: Port) -> TensorSpec:
        """An input that all rows share is sent once for each: in the protocol all inputs of a batch have its axis."""
        shape = (-1, *port.shape) if self.max_batch_size and port.batch_axis is None else port.shape
        return TensorSpec(name=port.name, datatype=port.datatype, shape=shape)


def _sequences(config: SequencesConfig, settings: EngineSettings) -> Sequences[Tensors]:
    return Sequences(
        idle_limit_s=settings.sequence_idle_s if config.idle_limit_s is None else config.idle_limit_s,
        max_bytes=_max_bytes(config, settings),
    )


def _max_bytes(config: SequencesConfig, settings: EngineSettings) -> int:
    return settings.sequence_bytes if config.max_bytes is None else config.max_bytes


def _check_room(signature: Signature, max_bytes: int) -> None:
    """Refuses a model of which not a single sequence could begin, before anything of that size is made."""
    needed = sum(state.start_bytes(1) for state in signature.states)
    if signature.states and needed + OVERHEAD_BYTES > max_bytes:
        raise BundleError(
            f"state: a sequence of one row has {needed:,} bytes, and all sequences may have {max_bytes:,} "
            f"(sequences.max_bytes in {CONFIG_FILE}, or --sequence-bytes)"
        )


def _check_states(signature: Signature, batching: Batching) -> None:
    for position, state in enumerate(signature.states):
        if (shape := batching.shapes.get(state.output.name)) and (problem := state.problem(shape)):
            raise BundleError(f"state[{position}]: {problem}")


def _has_rows_first(signature: Signature) -> bool:
    """Tells whether callers have the batch where the protocol has it."""
    return all(port.batch_axis in (0, None) for port in (*signature.inputs, *signature.outputs))


def _output_spec(port: Port, batching: Batching) -> TensorSpec:
    """Where the graph does not say how many axes an output has, a run has told."""
    shape = port.shape or (-1,) * len(batching.shapes.get(port.name, ()))
    return TensorSpec(name=port.name, datatype=port.datatype, shape=shape)


def _kib(inputs: Tensors) -> int:
    """Returns the size of a call for admission: a KiB counts like a token."""
    texts = sum(sum(map(len, array.ravel().tolist())) for array in inputs.values() if array.dtype == object)
    return 1 + (texts + sum(array.nbytes for array in inputs.values())) // 1024
