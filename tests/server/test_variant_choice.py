"""Which graphs of a bundle are run: int8 on a CPU and float16 on a GPU, only where they are faster and alike."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from bundles import language_model_bundle
from hiddenstate_server import variant_choice
from hiddenstate_server.bundle import Bundle, VariantName, load_bundle, write_bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.context import Context
from hiddenstate_server.errors import BundleError, ConfigError, InvalidRequestError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.providers import CPU, Provider
from hiddenstate_server.repository import Repository
from hiddenstate_server.state_token import State, pack_state, unpack_state
from hiddenstate_server.variant_choice import Choice, Wanted, load_variant
from variant_bundles import (
    fp16_language_model_bundle,
    fp16_sentence_encoder_bundle,
    int8_language_model_bundle,
    int8_sentence_encoder_bundle,
)

HERE = Provider(name=CPU, reason="as asked")
CUDA = Provider(name="CUDAExecutionProvider", reason="it is installed and works")
TENSORRT = Provider(name="TensorrtExecutionProvider", reason="as asked")
_NO_INSTRUCTIONS = "this CPU has no instructions for int8 products of weights with 8 bits"
X86 = "processor : 0\nflags : fpu avx2 avx512f {}\n"
ARM = "processor : 0\nFeatures : fp asimd {}\n"


class FakeClock:
    """A clock that only runners move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeRunner:
    """Takes the seconds that it is told to, by batch size."""

    def __init__(self, clock: FakeClock, seconds: dict[int, float], value: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._value = value

    def trial(self, batch_size: int) -> Sequence[NDArray[np.float32]]:
        self._clock.now += self._seconds[batch_size]
        return (np.full(batch_size, self._value, np.float32),)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(int8_language_model_bundle(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def gpu_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One with float16 graphs, and int8 ones."""
    folder = tmp_path_factory.mktemp("models")
    fp16 = load_bundle(fp16_language_model_bundle(folder / "fp16")).variants["fp16"]
    bundle = load_bundle(int8_language_model_bundle(folder / "int8"))
    return msgspec.structs.replace(bundle, variants={**bundle.variants, "fp16": fp16})


def with_weight_bits(bundle: Bundle, bits: int) -> Bundle:
    """Returns a bundle that says so of its int8 weights."""
    int8 = msgspec.structs.replace(bundle.variants["int8"], weight_bits=bits)
    return msgspec.structs.replace(bundle, variants={**bundle.variants, "int8": int8})


@pytest.fixture(autouse=True)
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another CPU than this one, which has what int8 needs."""
    path = tmp_path / "cpuinfo"
    path.write_text(X86.format("avx512_vnni"))
    monkeypatch.setattr(variant_choice, "_CPU_INFO", path)
    return path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(variant_choice, "time", clock)
    return clock


def choose(
    bundle: Bundle,
    clock: FakeClock,
    *,
    wanted: Wanted = "auto",
    int8: tuple[float, float] = (1.0, 4.0),
    fp16: tuple[float, float] = (1.0, 4.0),
    differs_by: float = 0.0,
    provider: Provider = HERE,
) -> Choice[FakeRunner]:
    """Chooses between fp32, which takes 2 s and 16 s for 1 and 16 contexts, and other graphs."""
    seconds = {"fp32": (2.0, 16.0), "int8": int8, "fp16": fp16}

    def load(variant: VariantName) -> FakeRunner:
        takes = dict(zip((1, 16), seconds[variant], strict=True))
        return FakeRunner(clock, takes, 0.0 if variant == "fp32" else differs_by)

    return load_variant(wanted, bundle, provider, load)


def test_int8_is_taken_where_it_is_faster(bundle: Bundle, clock: FakeClock) -> None:
    _, variant, reason = choose(bundle, clock)
    assert variant == "int8"
    assert reason == "2.0 in batches of 1 and 4.0 in batches of 16 times as fast as fp32 here"


@pytest.mark.parametrize("int8", [(2.0, 16.0), (8.0, 8.0), (1.95, 15.5)])
def test_fp32_is_taken_where_int8_gains_too_little(bundle: Bundle, clock: FakeClock, int8: tuple[float, float]) -> None:
    _, variant, reason = choose(bundle, clock, int8=int8)
    assert variant == "fp32"
    assert reason.startswith("int8 is not faster here: ")


@pytest.mark.parametrize(("wanted", "provider"), [("int8", HERE), ("fp16", CUDA), ("fp16", TENSORRT)])
def test_what_is_asked_for_is_taken_however_fast_it_is(
    gpu_bundle: Bundle, clock: FakeClock, wanted: Wanted, provider: Provider
) -> None:
    slow = (9.0, 99.0)
    assert choose(gpu_bundle, clock, wanted=wanted, provider=provider, int8=slow, fp16=slow)[1:] == (wanted, "as asked")
    _, variant, reason = choose(gpu_bundle, clock, wanted=wanted, provider=provider, differs_by=9.9)
    assert (variant, "differ from it by" in reason) == ("fp32", True)


def test_a_loss_alone_is_weighed_against_a_gain_in_batches(bundle: Bundle, clock: FakeClock) -> None:
    assert choose(bundle, clock, int8=(3.0, 4.0)).variant == "int8"
    assert choose(bundle, clock, int8=(6.0, 8.0)).variant == "fp32"


@pytest.mark.parametrize("differs_by", [1.01, float("nan")])
def test_int8_that_answers_otherwise_than_published_is_not_taken(
    bundle: Bundle, clock: FakeClock, differs_by: float
) -> None:
    _, variant, reason = choose(bundle, clock, differs_by=differs_by)
    assert variant == "fp32"
    assert "differ from it by" in reason


def test_a_difference_that_was_published_is_accepted(bundle: Bundle, clock: FakeClock) -> None:
    assert choose(bundle, clock, differs_by=0.99).variant == "int8"


def test_a_gpu_runs_float32_where_the_bundle_has_no_float16_graphs(bundle: Bundle, clock: FakeClock) -> None:
    assert choose(bundle, clock, provider=CUDA)[1:] == ("fp32", "the bundle has no fp16 graphs")
    assert clock.now == 0.0


def test_a_gpu_never_runs_int8(gpu_bundle: Bundle, clock: FakeClock) -> None:
    _, variant, reason = choose(gpu_bundle, clock, wanted="int8", provider=CUDA)
    assert (variant, reason) == ("fp32", "CUDAExecutionProvider has no int8 products of this kind")


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_float16_is_taken_where_a_gpu_is_faster_at_it(gpu_bundle: Bundle, clock: FakeClock, provider: Provider) -> None:
    _, variant, reason = choose(gpu_bundle, clock, provider=provider, int8=(0.1, 0.1))
    assert variant == "fp16"
    assert reason == "2.0 in batches of 1 and 4.0 in batches of 16 times as fast as fp32 here"


@pytest.mark.parametrize("fp16", [(2.0, 16.0), (1.95, 15.5)])
def test_float32_is_taken_where_a_gpu_gains_too_little_by_float16(
    gpu_bundle: Bundle, clock: FakeClock, fp16: tuple[float, float]
) -> None:
    _, variant, reason = choose(gpu_bundle, clock, provider=CUDA, fp16=fp16)
    assert variant == "fp32"
    assert reason.startswith("fp16 is not faster here: 1.0 in batches of 1 and 1.0 in batches of 16")


@pytest.mark.parametrize(("differs_by", "expected"), [(0.25, "fp16"), (0.251, "fp32"), (float("nan"), "fp32")])
def test_float16_is_held_against_what_was_published(
    gpu_bundle: Bundle, clock: FakeClock, differs_by: float, expected: str
) -> None:
    _, variant, reason = choose(gpu_bundle, clock, provider=CUDA, differs_by=differs_by)
    assert variant == expected
    assert reason.startswith("fp16 graphs differ from it by ") == (expected == "fp32")


def test_a_cpu_never_takes_float16(gpu_bundle: Bundle, clock: FakeClock) -> None:
    assert choose(gpu_bundle, clock, fp16=(0.1, 0.1)).variant == "int8"
    without_int8 = msgspec.structs.replace(
        gpu_bundle, variants={name: gpu_bundle.variants[name] for name in ("fp32", "fp16")}
    )
    assert choose(without_int8, clock, fp16=(0.1, 0.1))[1:] == ("fp32", "the bundle has no int8 graphs")
    _, variant, reason = choose(gpu_bundle, clock, wanted="fp16", fp16=(0.1, 0.1))
    assert (variant, reason) == ("fp32", f"{CPU} has no fp16 products of this kind")


@pytest.mark.parametrize(("provider", "expected"), [(HERE, "int8"), (CUDA, "fp16")])
def test_a_bundle_without_float32_runs_what_suits_the_provider(
    gpu_bundle: Bundle, clock: FakeClock, provider: Provider, expected: str
) -> None:
    only = msgspec.structs.replace(gpu_bundle, variants={name: gpu_bundle.variants[name] for name in ("fp16", "int8")})
    assert choose(only, clock, provider=provider)[1:] == (expected, "the bundle has no float32 graphs")


class NoKernel(FakeRunner):
    """Loads, and does not run."""

    def trial(self, batch_size: int) -> Sequence[NDArray[np.float32]]:
        raise RuntimeError("no kernel")


def load_all_but(rival: str, clock: FakeClock, *, loads: bool) -> Callable[[VariantName], FakeRunner]:
    """Returns what loads float32 graphs; the rival's do not load, or do not run."""

    def load(variant: VariantName) -> FakeRunner:
        if variant != rival:
            return FakeRunner(clock, {1: 1.0, 16: 1.0}, 0.0)
        if loads:
            return NoKernel(clock, {}, 0.0)
        raise BundleError("encoder.onnx: no kernel")

    return load


@pytest.mark.parametrize("loads", [False, True])
@pytest.mark.parametrize("wanted", ["auto", "fp16"])
def test_float32_is_taken_where_a_gpu_cannot_run_the_other_graphs(
    gpu_bundle: Bundle, clock: FakeClock, wanted: Wanted, loads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _, variant, reason = load_variant(wanted, gpu_bundle, CUDA, load_all_but("fp16", clock, loads=loads))
    assert (variant, reason) == ("fp32", "fp16 graphs do not run here")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("no kernel")


@pytest.mark.parametrize("wanted", ["auto", "int8"])
def test_a_damaged_variant_is_not_passed_over_on_a_cpu(gpu_bundle: Bundle, clock: FakeClock, wanted: Wanted) -> None:
    with pytest.raises(BundleError, match="no kernel"):
        load_variant(wanted, gpu_bundle, HERE, load_all_but("int8", clock, loads=False))


def test_float32_is_taken_where_the_bundle_lacks_what_is_asked_for(bundle: Bundle, clock: FakeClock) -> None:
    assert choose(bundle, clock, wanted="fp16", provider=CUDA)[1:] == ("fp32", "the bundle has no fp16 graphs")


@pytest.mark.parametrize(("has", "wanted"), [("int8", "fp32"), ("int8", "fp16"), ("fp16", "int8")])
def test_a_bundle_with_neither_what_is_asked_for_nor_float32_is_refused(
    gpu_bundle: Bundle, clock: FakeClock, has: VariantName, wanted: Wanted
) -> None:
    only = msgspec.structs.replace(gpu_bundle, variants={has: gpu_bundle.variants[has]})
    with pytest.raises(ConfigError, match=f"--variant {wanted}: .* has only {has}; leave it to --variant auto, or "):
        choose(only, clock, wanted=wanted)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86.format("avx512_vnni"), "int8"),
        (X86.format("avx_vnni"), "int8"),
        (X86.format("avx512bw"), "fp32"),
        (ARM.format("asimddp"), "int8"),
        (ARM.format("crc32"), "fp32"),
        ("", "int8"),
    ],
)
def test_a_cpu_without_int8_instructions_runs_float32_instead_of_weights_with_8_bits(
    bundle: Bundle, clock: FakeClock, cpu_info: Path, text: str, expected: str
) -> None:
    cpu_info.write_text(text)
    _, variant, reason = choose(with_weight_bits(bundle, 8), clock)
    assert variant == expected
    assert (reason == _NO_INSTRUCTIONS) == (expected == "fp32")


def test_weights_with_7_bits_are_measured_on_every_cpu(bundle: Bundle, clock: FakeClock, cpu_info: Path) -> None:
    cpu_info.write_text(X86.format("avx512bw"))
    assert bundle.variants["int8"].weight_bits == 7
    _, variant, reason = choose(bundle, clock)
    assert variant == "int8"
    assert "times as fast as fp32 here" in reason


def test_where_nothing_is_known_of_the_cpu_the_measurement_decides(
    bundle: Bundle, clock: FakeClock, cpu_info: Path
) -> None:
    cpu_info.unlink()
    assert choose(bundle, clock).variant == "int8"


def test_fp32_is_taken_unmeasured_when_asked_for(bundle: Bundle, clock: FakeClock) -> None:
    assert choose(bundle, clock, wanted="fp32")[1:] == ("fp32", "as asked")
    assert clock.now == 0.0


@pytest.mark.parametrize("wanted", ["auto", "int8"])
def test_a_bundle_without_int8_runs_float32(tmp_path: Path, clock: FakeClock, wanted: Wanted) -> None:
    bundle = load_bundle(language_model_bundle(tmp_path))
    assert choose(bundle, clock, wanted=wanted)[1:] == ("fp32", "the bundle has no int8 graphs")


def test_a_bundle_with_nothing_but_int8_runs_it(bundle: Bundle, clock: FakeClock) -> None:
    only = msgspec.structs.replace(bundle, variants={"int8": bundle.variants["int8"]})
    assert choose(only, clock)[1:] == ("int8", "the bundle has no float32 graphs")


class TestServed:
    """With real graphs. Tiny models gain nothing from int8, so the gain that is asked for is less than none."""

    @pytest.fixture(autouse=True)
    def easy_gain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(variant_choice, "_LEAST_GAIN", 0.0)

    @pytest.fixture
    async def repository(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Repository]:
        int8_language_model_bundle(tmp_path / "models")
        int8_sentence_encoder_bundle(tmp_path / "models")
        with caplog.at_level(logging.INFO):
            repository = load(tmp_path / "models")
        yield repository
        repository.close()

    async def test_the_log_says_which_graphs_run_and_why(
        self, repository: Repository, caplog: pytest.LogCaptureFixture
    ) -> None:
        lines = [line for record in caplog.get_records("setup") if " in int8: " in (line := record.getMessage())]
        # They are loaded side by side.
        assert {line.split(" in int8")[0] for line in lines} == {"running tiny-encoder 1", "running tiny-lm 1"}
        assert all("times as fast as fp32" in line for line in lines)

    async def test_int8_predicts_nearly_what_float32_does(self, repository: Repository, tmp_path: Path) -> None:
        reference = load(tmp_path / "models", variant="fp32")
        context = Context(text="I would like to thank")
        int8 = await repository.language_model().predict(context, top_k=40)
        fp32 = await reference.language_model().predict(context, top_k=40)
        expected = {candidate.token_id: candidate.log_prob for candidate in fp32.candidates}
        differences = [abs(expected[one.token_id] - one.log_prob) for one in int8.candidates[:20]]
        assert 0 < max(differences) < 0.5
        reference.close()

    async def test_a_state_that_no_graph_can_have_made_is_refused(self, repository: Repository) -> None:
        model = repository.language_model()
        made = (await model.predict(Context(text="I would like"), return_state=True)).state
        await model.predict(Context(text="to", state=made))  # its own is not
        fingerprint = model.bundle.fingerprint
        spec = model.bundle.language_model
        assert spec is not None
        values = unpack_state(made, fingerprint, spec.state_size).values.copy()
        values[spec.output_offset] = -1.5
        state = State(values.tobytes(), 3)
        with pytest.raises(InvalidRequestError, match=r"state: holds 1\.5 where this model keeps to 1"):
            await model.predict(Context(text="to", state=pack_state(state, fingerprint)))

    async def test_a_cell_state_may_be_any_size(self, repository: Repository) -> None:
        model = repository.language_model()
        spec = model.bundle.language_model
        assert spec is not None
        values = np.zeros(spec.state_size, np.float32)
        values[16:32] = 50.0  # c of the first layer
        token = pack_state(State(values.tobytes(), 1), model.bundle.fingerprint)
        assert (await model.predict(Context(text="to", state=token))).candidates

    @pytest.fixture
    def slow_int8(self, cpu_info: Path) -> None:
        cpu_info.write_text(X86.format("avx512bw"))

    @pytest.mark.usefixtures("slow_int8")
    async def test_asking_for_int8_where_it_is_slow_warns_and_runs_float32(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = int8_language_model_bundle(tmp_path / "models")
        write_bundle(with_weight_bits(load_bundle(folder), 8), folder)
        load(tmp_path / "models", variant="int8").close()
        (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert line.getMessage() == f"running tiny-lm 1 in fp32: {_NO_INSTRUCTIONS}"


class TestServedInFloat16:
    """With real graphs, which the CPU provider runs in the place of a GPU's; tiny models gain nothing there."""

    @pytest.fixture(autouse=True)
    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(variant_choice, "_LEAST_GAIN", 0.0)
        monkeypatch.setattr(variant_choice, "CPU", "AnotherExecutionProvider")

    @pytest.fixture
    async def repository(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Repository]:
        fp16_language_model_bundle(tmp_path / "models")
        fp16_sentence_encoder_bundle(tmp_path / "models")
        with caplog.at_level(logging.INFO):
            repository = load(tmp_path / "models")
        yield repository
        repository.close()

    async def test_the_log_says_which_graphs_run_and_why(
        self, repository: Repository, caplog: pytest.LogCaptureFixture
    ) -> None:
        lines = [line for record in caplog.get_records("setup") if " in fp16: " in (line := record.getMessage())]
        assert {line.split(" in fp16")[0] for line in lines} == {"running tiny-encoder 1", "running tiny-lm 1"}
        assert all("times as fast as fp32" in line for line in lines)

    async def test_float16_predicts_nearly_what_float32_does(self, repository: Repository, tmp_path: Path) -> None:
        reference = load(tmp_path / "models", variant="fp32")
        context = Context(text="I would like to thank")
        fp16 = await repository.language_model().predict(context, top_k=40)
        fp32 = await reference.language_model().predict(context, top_k=40)
        expected = {candidate.token_id: candidate.log_prob for candidate in fp32.candidates}
        differences = [abs(expected[one.token_id] - one.log_prob) for one in fp16.candidates[:20]]
        assert 0 < max(differences) < 0.02
        reference.close()

    async def test_a_state_of_float32_graphs_goes_on_in_float16_ones_and_back(
        self, repository: Repository, tmp_path: Path
    ) -> None:
        reference = load(tmp_path / "models", variant="fp32")
        fp16, fp32 = repository.language_model(), reference.language_model()
        for begins, goes_on in ((fp32, fp16), (fp16, fp32)):
            state = (await begins.predict(Context(text="I would like"), return_state=True)).state
            answer = await goes_on.predict(Context(text="to thank", state=state), top_k=5)
            whole = await fp32.predict(Context(text="I would like to thank"), top_k=5)
            for one, other in zip(answer.candidates, whole.candidates, strict=True):
                assert one.token_id == other.token_id
                assert one.log_prob == pytest.approx(other.log_prob, abs=0.02)
        reference.close()

    async def test_vectors_are_nearly_those_of_float32(self, repository: Repository, tmp_path: Path) -> None:
        reference = load(tmp_path / "models", variant="fp32")
        sentences = ["the car is new", "they can thank her for the time"]
        fp16 = (await repository.sentence_encoder().encode(sentences)).embeddings
        fp32 = (await reference.sentence_encoder().encode(sentences)).embeddings
        assert 0 < np.abs(np.asarray(fp16) - np.asarray(fp32)).max() < 1e-3
        reference.close()

    @pytest.mark.parametrize(("place", "value", "bound"), [(16, 7e4, "65504"), (0, 1.5, "1")])
    async def test_a_state_that_float16_cannot_hold_is_refused(
        self, repository: Repository, place: int, value: float, bound: str
    ) -> None:
        model = repository.language_model()
        spec = model.bundle.language_model
        assert spec is not None
        values = np.zeros(spec.state_size, np.float32)
        values[place] = value
        token = pack_state(State(values.tobytes(), 1), model.bundle.fingerprint)
        with pytest.raises(InvalidRequestError, match=rf"state: holds .* where this model keeps to {bound},"):
            await model.predict(Context(text="to", state=token))


async def test_asking_for_float16_on_a_cpu_warns_and_runs_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fp16_language_model_bundle(tmp_path / "models")
    load(tmp_path / "models", variant="fp16").close()
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.getMessage() == f"running tiny-lm 1 in fp32: {CPU} has no fp16 products of this kind"


def load(folder: Path, **settings: object) -> Repository:
    engine = EngineSettings(**settings)  # type: ignore[arg-type]
    return Repository.open(folder, settings=engine, metrics=Metrics(), loop=asyncio.get_running_loop())
