"""One training of a sentence encoder: from sources of sentences and a teacher to a measured checkpoint."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder, SentenceEncoderConfig
from hiddenstate_exporter.training.checkpoint import load_checkpoint, save_checkpoint
from hiddenstate_exporter.training.distillation import (
    DistillationTask,
    Examples,
    encode,
    initial_embedding,
    reduce_dimension,
    tokenize,
)
from hiddenstate_exporter.training.loop import REASONS, Origin, Outcome, TrainingOptions, train
from hiddenstate_exporter.training.precision import choose_device
from hiddenstate_exporter.training.run_config import to_tables, write_tables
from hiddenstate_exporter.training.run_dir import RunDir
from hiddenstate_exporter.training.sentences import Material, Sources, collect
from hiddenstate_exporter.training.sts import StsPairs, read_sts, spearman
from hiddenstate_exporter.training.targets import teacher_vectors
from hiddenstate_exporter.training.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOptions:
    """The shape of the student and what it is asked for. A `dimension` of None is the teacher's."""

    dimension: int | None = None
    embedding_size: int = 256
    hidden_size: int = 256  # of one direction
    num_layers: int = 1
    cell: Cell = "lstm"
    connections: Connections = "none"
    forget_bias: float | None = None
    bidirectional: bool = True
    pooling: Pooling = "mean"
    attention_heads: int = 4
    attention_size: int = 128
    dropout: float = 0.1
    batch_size: int = 128
    relational_weight: float = 5.0


def run(
    teacher: Teacher,
    sources: Sources,
    student: StudentOptions,
    options: TrainingOptions,
    *,
    held_out: int = 2000,
    sts: Path | None = None,
    command: str = "",
    data_description: str | None = None,
    echo: Callable[[str], None] = print,
) -> Outcome:
    """Does what `hiddenstate train sentence-encoder` says; unless interrupted, `best.pt` carries its metrics.

    Raises:
        ValueError: the data, the teacher, an option or the run folder is wrong; the message says which and why.
        TrainingError: training could not go on.
    """
    RunDir(options.run_dir).prepare(options.resume)  # before the teacher works for an hour
    config = _config(teacher, student)
    pairs = read_sts(sts) if sts is not None else None
    judged = [*pairs.first, *pairs.second] if pairs is not None else []
    material = collect(sources, held_out=held_out, exclude=judged, seed=options.training.seed)
    echo(f"sentences: {len(material.train):,} to train on, {len(material.held_out):,} held out")
    task = _task(teacher, material, config, student, options)
    echo(f"{sum(p.numel() for p in task.model.parameters()):,} parameters; the run is kept in {options.run_dir}")
    parts = {"optimizer": options.optimizer, "schedule": options.schedule, "training": options.training}
    tables = to_tables({"model": student, **parts})
    write_tables(RunDir(options.run_dir).config, tables)
    origin = Origin(
        kind="sentence_encoder",
        config=config.to_dict(),
        config_defaults=config.defaults(),
        tokenizer=teacher.tokenizer.to_str(),
        data=_describe(teacher, sources, material, data_description),
        command=command,
        run=tables,
    )
    outcome = train(task, origin, options)
    echo(_ending(outcome))
    if outcome.ending != "interrupted":
        echo(_describe_metrics(measure(outcome.best_path, teacher, pairs)))
        echo(f"publish it with: hiddenstate export {outcome.best_path} --to models/")
    return outcome


def measure(path: Path, teacher: Teacher, pairs: StsPairs | None) -> dict[str, float]:
    """Measures a checkpoint, and its teacher, on STS pairs and writes the results into its metrics."""
    checkpoint = load_checkpoint(path)
    distance = checkpoint.metrics.get(DistillationTask.metric)
    metrics = dict(checkpoint.metrics) if distance is None else {"valid_cosine_to_teacher": 1 - distance}
    if pairs is not None:
        model = SentenceEncoder(SentenceEncoderConfig.from_dict(dict(checkpoint.config)))
        model.load_state_dict(dict(checkpoint.model))
        tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
        metrics["sts_dev_spearman"] = spearman(lambda sentences: encode(model, tokenizer, sentences), pairs)
        metrics["teacher_sts_dev_spearman"] = spearman(teacher.embed, pairs)
    save_checkpoint(path, dataclasses.replace(checkpoint, metrics=metrics))
    return metrics


def _config(teacher: Teacher, student: StudentOptions) -> SentenceEncoderConfig:
    dimension = student.dimension or teacher.dimension
    if dimension > teacher.dimension:
        raise ValueError(f"dimension is {dimension}, but the teacher's vectors have {teacher.dimension}")
    return SentenceEncoderConfig(
        vocab_size=teacher.tokenizer.get_vocab_size(),
        embedding_size=student.embedding_size,
        hidden_size=student.hidden_size,
        num_layers=student.num_layers,
        cell=student.cell,
        connections=student.connections,
        forget_bias=student.forget_bias,
        bidirectional=student.bidirectional,
        dimension=dimension,
        pooling=student.pooling,
        attention_heads=student.attention_heads,
        attention_size=student.attention_size,
        max_seq_length=teacher.max_seq_length,
        dropout=student.dropout,
    )


def _task(
    teacher: Teacher,
    material: Material,
    config: SentenceEncoderConfig,
    student: StudentOptions,
    options: TrainingOptions,
) -> DistillationTask:
    sentences = material.train + material.held_out
    count = len(material.train)
    vectors = reduce_dimension(teacher_vectors(teacher, sentences, options.run_dir), config.dimension, fit_on=count)
    tokens = tokenize(teacher.tokenizer, sentences, config.max_seq_length)
    torch.manual_seed(options.training.seed)  # the initial weights
    model = SentenceEncoder(config).to(choose_device(options.training.device))
    if not options.resume:
        table = initial_embedding(teacher.embed_tokens(), config.embedding_size, options.training.seed)
        model.embedding.weight.data.copy_(table)
    return DistillationTask(
        model,
        _examples(tokens[:count], vectors[:count], material.repeats),
        _examples(tokens[count:], vectors[count:], [1] * len(material.held_out)),
        batch_size=student.batch_size,
        relational_weight=student.relational_weight,
        seed=options.training.seed,
    )


def _examples(tokens: Sequence[NDArray[np.int32]], vectors: NDArray[np.float16], repeats: Sequence[int]) -> Examples:
    return Examples(tokens, vectors, np.asarray(repeats, np.int64))


def _describe(teacher: Teacher, sources: Sources, material: Material, description: str | None) -> str:
    origin = description or ", ".join([*sources.in_domain, *sources.data, *sources.text])
    return (
        f"{len(material.train):,} sentences from {origin}; their vectors by {teacher.name}; "
        f"{len(material.held_out):,} further sentences held out to choose the best weights by"
    )


def _ending(outcome: Outcome) -> str:
    done = f"{outcome.epochs:.2f} epochs in {outcome.seconds:.0f} s"
    kept = f"the weights are kept in {outcome.best_path}"
    if math.isfinite(outcome.best):
        kept = f"the best, with cosine {1 - outcome.best:.4f} to the teacher, are kept in {outcome.best_path}"
    return f"{REASONS[outcome.ending]} after {done}; {kept}"


def _describe_metrics(metrics: Mapping[str, float]) -> str:
    names = {
        "valid_cosine_to_teacher": "cosine to the teacher on held-out sentences",
        "sts_dev_spearman": "Spearman on the STS file",
        "teacher_sts_dev_spearman": "the teacher's",
    }
    return ", ".join(f"{names[name]} {number:.4f}" for name, number in metrics.items() if name in names)
