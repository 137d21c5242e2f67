"""One training of a language model: from sources of text to a measured checkpoint."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.training.checkpoint import load_checkpoint, save_checkpoint
from hiddenstate_exporter.training.corpus import Split, read_sources, split
from hiddenstate_exporter.training.language_model_task import LanguageModelTask, Scores, score
from hiddenstate_exporter.training.loop import REASONS, Origin, Outcome, TrainingOptions, train
from hiddenstate_exporter.training.vocabulary import encode_stream, eos_id, train_word_tokenizer, unk_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """How the text is read in training."""

    batch_size: int = 64
    bptt: int = 32
    sampled_softmax: int = 0


def run(
    sources: Sequence[str],
    config: LanguageModelConfig,
    reading: ReadingOptions,
    options: TrainingOptions,
    *,
    command: str = "",
    data_description: str | None = None,
    fewer_words: bool = False,
    echo: Callable[[str], None] = print,
) -> Outcome:
    """Does what `hiddenstate train language-model` says; unless interrupted, `best.pt` carries its test scores.

    `fewer_words` lets the vocabulary be smaller than `config` says where the text has no more words.

    Raises:
        ValueError: the data, an option or the run folder is wrong; the message says which and why.
        TrainingError: training could not go on.
    """
    parts = split(read_sources(sources))
    tokenizer = train_word_tokenizer(parts.train, config.vocab_size, fewer=fewer_words)
    if tokenizer.get_vocab_size() < config.vocab_size:
        config = dataclasses.replace(config, vocab_size=tokenizer.get_vocab_size())
        echo(f"vocabulary: {config.vocab_size:,}, all words of the text")
    streams = _Streams.of(parts, tokenizer)
    echo(
        f"tokens: {len(streams.train):,} to train on, {len(streams.valid):,} for validation, {len(streams.test):,} test"
    )
    task = _task(config, streams, reading, options.seed)
    echo(f"{sum(p.numel() for p in task.model.parameters()):,} parameters; the run is kept in {options.run_dir}")
    origin = Origin(
        kind="language_model",
        config=config.to_dict(),
        config_defaults=config.defaults(),
        tokenizer=tokenizer.to_str(),
        data=data_description or ", ".join(sources),
        command=command,
    )
    outcome = train(task, origin, options)
    echo(_describe(outcome))
    if outcome.ending != "interrupted":
        echo(_describe_scores(measure(outcome.best_path, streams.test)))
        echo(f"publish it with: hiddenstate export {outcome.best_path} --to models/")
    return outcome


def measure(path: Path, test: torch.Tensor) -> Scores:
    """Measures a checkpoint on a test stream, int64 [tokens], and writes the scores into its metrics."""
    checkpoint = load_checkpoint(path)
    model = LanguageModel(LanguageModelConfig.from_dict(dict(checkpoint.config))).eval()
    model.load_state_dict(dict(checkpoint.model))
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    unk = unk_id(tokenizer)
    scores = score(model, test, special_ids=(eos_id(tokenizer), unk), unk_id=unk)
    validation = {"valid_perplexity": checkpoint.metrics.get("valid_perplexity", checkpoint.metrics["perplexity"])}
    save_checkpoint(path, dataclasses.replace(checkpoint, metrics={**validation, **dataclasses.asdict(scores)}))
    return scores


@dataclass(frozen=True, slots=True)
class _Streams:
    """The three parts of the corpus as token streams, int64 [tokens]."""

    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor

    @classmethod
    def of(cls, parts: Split, tokenizer: Tokenizer) -> "_Streams":
        return cls(*(torch.from_numpy(encode_stream(tokenizer, p)) for p in (parts.train, parts.valid, parts.test)))


def _task(config: LanguageModelConfig, streams: _Streams, reading: ReadingOptions, seed: int) -> LanguageModelTask:
    torch.manual_seed(seed)  # the initial weights
    return LanguageModelTask(
        LanguageModel(config), streams.train, streams.valid, **dataclasses.asdict(reading), seed=seed
    )


def _describe(outcome: Outcome) -> str:
    done = f"{outcome.epochs:.2f} epochs in {outcome.seconds:.0f} s"
    kept = f"the weights are kept in {outcome.best_path}"
    if math.isfinite(outcome.best):
        kept = f"the best, of validation perplexity {outcome.best:.2f}, are kept in {outcome.best_path}"
    return f"{REASONS[outcome.ending]} after {done}; {kept}"


def _describe_scores(scores: Scores) -> str:
    return (
        f"test perplexity {scores.perplexity:.2f}; next word right {scores.top1_accuracy:.1%} of the time, "
        f"among the first three {scores.top3_accuracy:.1%}; {scores.unk_rate:.1%} of the tokens unknown"
    )
