"""One training of a sentence encoder: from sources of sentences and a teacher to a measured checkpoint."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

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
from hiddenstate_exporter.training.loop import Origin, Outcome, TrainingOptions, train
from hiddenstate_exporter.training.precision import choose_device
from hiddenstate_exporter.training.run_config import to_tables
from hiddenstate_exporter.training.run_dir import RunDir
from hiddenstate_exporter.training.sentence_encoder_config import SentenceData, SentenceEncoderRun
from hiddenstate_exporter.training.sentences import Material, collect
from hiddenstate_exporter.training.sts import StsPairs, read_sts, spearman
from hiddenstate_exporter.training.targets import teacher_vectors
from hiddenstate_exporter.training.teacher import Teacher

MIN_HELD_OUT = 100  # sentences; of fewer, single ones decide which weights are best


def run(
    config: SentenceEncoderRun,
    teacher: Teacher,
    run_dir: Path,
    *,
    resume: bool = False,
    command: str = "",
    echo: Callable[[str], None] = print,
) -> Outcome:
    """Does what `hiddenstate train sentence-encoder` says; unless interrupted, `best.pt` carries its metrics.

    `teacher` is the one that `config.distillation` names, loaded.

    Raises:
        ValueError: the data, the teacher, an option or the run folder is wrong; the message says which and why.
        TrainingError: training could not go on.
    """
    RunDir(run_dir).prepare(resume)  # before the teacher works for an hour
    shape = network_config(config, teacher)
    pairs = read_sts(Path(config.data.sts)) if config.data.sts is not None else None
    judged = [*pairs.first, *pairs.second] if pairs is not None else []
    material = collect(config.data, exclude=judged, seed=config.training.seed)
    echo(f"sentences: {len(material.train):,} to train on, {len(material.held_out):,} held out")
    if len(material.held_out) < MIN_HELD_OUT:
        echo(
            f"warning: {len(material.held_out):,} held-out sentences are too few to choose the best weights by "
            f"({MIN_HELD_OUT} or more can); give more sentences, or hold more of them out (data.held_out)"
        )
    task = _task(config, shape, teacher, material, run_dir, resume)
    echo(f"{sum(p.numel() for p in task.model.parameters()):,} parameters; the run is kept in {run_dir}")
    origin = Origin(
        kind="sentence_encoder",
        config=shape.to_dict(),
        config_defaults=shape.defaults(),
        tokenizer=teacher.tokenizer.to_str(),
        data=_describe(teacher, config.data, material),
        command=command,
        run=to_tables(config),
    )
    outcome = train(task, origin, _options(config, run_dir, resume))
    echo(outcome.describe(f"with cosine {1 - outcome.best:.4f} to the teacher"))
    if outcome.ending != "interrupted":
        echo(_describe_metrics(measure(outcome.best_path, teacher, pairs)))
        sts = ["--sts", config.data.sts] if config.data.sts is not None else []
        step = shlex.join(["hiddenstate", "export", str(outcome.best_path), "--to", "models/", *sts])
        echo(f"publish it with: {step}")
    return outcome


def network_config(config: SentenceEncoderRun, teacher: Teacher) -> SentenceEncoderConfig:
    """Returns the shape of a run's network.

    Raises:
        ValueError: fields do not fit together, or the teacher's vectors are too short; the message names one.
    """
    fields = {name: getattr(config.model, name) for name in config.model.__struct_fields__}
    fields["dimension"] = config.model.dimension or teacher.dimension
    if fields["dimension"] > teacher.dimension:
        raise ValueError(f"dimension is {fields['dimension']}, but the teacher's vectors have {teacher.dimension}")
    return SentenceEncoderConfig(
        **fields,
        vocab_size=teacher.tokenizer.get_vocab_size(),
        max_seq_length=teacher.max_seq_length,
        dropout=config.regularization.dropout,
    )


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


def _options(config: SentenceEncoderRun, run_dir: Path, resume: bool) -> TrainingOptions:
    return TrainingOptions(
        run_dir=run_dir,
        resume=resume,
        optimizer=config.optimizer,
        schedule=config.schedule,
        training=config.training,
    )


def _task(
    config: SentenceEncoderRun,
    shape: SentenceEncoderConfig,
    teacher: Teacher,
    material: Material,
    run_dir: Path,
    resume: bool,
) -> DistillationTask:
    sentences = material.train + material.held_out
    count, seed = len(material.train), config.training.seed
    vectors = reduce_dimension(teacher_vectors(teacher, sentences, run_dir), shape.dimension, fit_on=count)
    tokens = tokenize(teacher.tokenizer, sentences, shape.max_seq_length)
    torch.manual_seed(seed)  # the initial weights
    model = SentenceEncoder(shape).to(choose_device(config.training.device))
    if not resume:
        table = initial_embedding(teacher.embed_tokens(), shape.embedding_size, seed)
        model.embedding.weight.data.copy_(table)
    return DistillationTask(
        model,
        _examples(tokens[:count], vectors[:count], material.repeats),
        _examples(tokens[count:], vectors[count:], [1] * len(material.held_out)),
        batch_size=config.batches.batch_size,
        relational_weight=config.distillation.relational_weight,
        seed=seed,
    )


def _examples(tokens: Sequence[NDArray[np.int32]], vectors: NDArray[np.float16], repeats: Sequence[int]) -> Examples:
    return Examples(tokens, vectors, np.asarray(repeats, np.int64))


def _describe(teacher: Teacher, data: SentenceData, material: Material) -> str:
    origin = data.description or ", ".join([*data.in_domain, *data.sentences, *data.text])
    return (
        f"{len(material.train):,} sentences from {origin}; their vectors by {teacher.name}; "
        f"{len(material.held_out):,} further sentences held out to choose the best weights by"
    )


def _describe_metrics(metrics: Mapping[str, float]) -> str:
    names = {
        "valid_cosine_to_teacher": "cosine to the teacher on held-out sentences",
        "sts_dev_spearman": "Spearman on the STS file",
        "teacher_sts_dev_spearman": "the teacher's",
    }
    return ", ".join(f"{names[name]} {number:.4f}" for name, number in metrics.items() if name in names)
