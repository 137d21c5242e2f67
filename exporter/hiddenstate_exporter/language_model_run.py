"""One training of a language model from sources of text to a measured checkpoint."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer

from hiddenstate_exporter.checkpoint import load_checkpoint, save_checkpoint
from hiddenstate_exporter.corpus import Split, read_sources, split
from hiddenstate_exporter.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.language_model_task import LanguageModelTask, Scores, score
from hiddenstate_exporter.training import Origin, Outcome, TrainingOptions, train
from hiddenstate_exporter.vocabulary import encode_stream, eos_id, train_word_tokenizer, unk_id


def run(
    *,
    sources: Sequence[str],
    run_dir: Path,
    vocab_size: int,
    embedding_size: int,
    hidden_size: int,
    num_layers: int,
    cell: Literal["lstm"],
    tied: bool,
    dropout: float,
    bidirectional: bool,
    batch_size: int,
    bptt: int,
    lr: float,
    schedule: Literal["cosine", "plateau"],
    optimizer: Literal["adamw"],
    weight_decay: float,
    clip: float,
    max_epochs: int,
    max_minutes: float | None,
    patience: int,
    validations_per_epoch: int,
    seed: int,
    threads: int | None,
    sampled_softmax: int,
    bf16: bool,
    resume: bool,
    data_description: str | None,
    command: str,
    echo: Callable[[str], None],
) -> Scores:
    """Does what `hiddenstate train language-model` says (its options have the same names); returns the test scores."""
    config = LanguageModelConfig(
        vocab_size=vocab_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        cell=cell,
        tied=tied,
        dropout=dropout,
        bidirectional=bidirectional,
    )
    options = TrainingOptions(
        run_dir=run_dir,
        lr=lr,
        weight_decay=weight_decay,
        clip=clip,
        max_epochs=max_epochs,
        max_minutes=max_minutes,
        patience=patience,
        schedule=schedule,
        validations_per_epoch=validations_per_epoch,
        seed=seed,
        bf16=bf16,
        resume=resume,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    parts = split(read_sources(sources))
    tokenizer = train_word_tokenizer(parts.train, vocab_size)
    streams = _Streams.of(parts, tokenizer)
    torch.manual_seed(seed)  # the initial weights
    model = LanguageModel(config)
    echo(streams.describe())
    echo(f"{sum(p.numel() for p in model.parameters()):,} parameters; the run is kept in {run_dir}")
    task = LanguageModelTask(
        model,
        streams.train,
        streams.valid,
        batch_size=batch_size,
        bptt=bptt,
        sampled_softmax=sampled_softmax,
        seed=seed,
    )
    data = data_description or ", ".join(sources)
    origin = Origin(
        kind="language_model", config=config.to_dict(), tokenizer=tokenizer.to_str(), data=data, command=command
    )
    outcome = train(task, origin, options)
    echo(_ending(outcome, run_dir))
    scores = measure(outcome.best_path, streams.test, tokenizer)
    echo(
        f"test perplexity {scores.perplexity:.2f}, next word right {scores.top1_accuracy:.1%} of the time, "
        f"among the first three {scores.top3_accuracy:.1%}; {scores.unk_rate:.1%} unknown words"
    )
    echo(f"publish it with: hiddenstate export {outcome.best_path} --to models/")
    return scores


def measure(path: Path, test: torch.Tensor, tokenizer: Tokenizer) -> Scores:
    """Measures a checkpoint on a test stream, int64 [tokens], and writes the scores into its metrics."""
    checkpoint = load_checkpoint(path)
    model = LanguageModel(LanguageModelConfig.from_dict(dict(checkpoint.config))).eval()
    model.load_state_dict(dict(checkpoint.model))
    specials = (eos_id(tokenizer), unk_id(tokenizer))
    scores = score(model, test, special_ids=specials, unk_id=unk_id(tokenizer))
    validation = {"valid_perplexity": checkpoint.metrics.get("valid_perplexity", checkpoint.metrics["perplexity"])}
    save_checkpoint(path, dataclasses.replace(checkpoint, metrics={**validation, **dataclasses.asdict(scores)}))
    return scores


@dataclasses.dataclass(frozen=True, slots=True)
class _Streams:
    """The three parts of the corpus as token streams, int64 [tokens]."""

    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor

    @classmethod
    def of(cls, parts: Split, tokenizer: Tokenizer) -> "_Streams":
        return cls(*(torch.from_numpy(encode_stream(tokenizer, p)) for p in (parts.train, parts.valid, parts.test)))

    def describe(self) -> str:
        return f"tokens: {len(self.train):,} train, {len(self.valid):,} valid, {len(self.test):,} test"


def _ending(outcome: Outcome, run_dir: Path) -> str:
    reasons = {
        "max_epochs": "all epochs done",
        "max_minutes": "the time is up",
        "patience": "validation stopped improving",
        "interrupted": f"interrupted; the same command with --resume continues from {run_dir / 'last.pt'}",
    }
    return (
        f"{reasons[outcome.ending]}: {outcome.epochs:.2f} epochs in {outcome.seconds:.0f} s, "
        f"best validation perplexity {outcome.best:.2f} kept in {outcome.best_path}"
    )
