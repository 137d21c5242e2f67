"""One training of a language model: from sources of text to a measured checkpoint."""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer

from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.training.checkpoint import load_checkpoint, save_checkpoint
from hiddenstate_exporter.training.language_model_task import LanguageModelTask, Scores, score
from hiddenstate_exporter.training.loop import Origin, Outcome, TrainingOptions, train
from hiddenstate_exporter.training.precision import choose_device
from hiddenstate_exporter.training.run_config import LanguageModelRun, to_tables
from hiddenstate_exporter.training.run_dir import RunDir
from hiddenstate_exporter.training.texts import VOCAB_SIZE, Texts, describe_sources, read_texts, warn_of_small_parts
from hiddenstate_exporter.training.vocabulary import eos_id, unk_id

ANY_SIZE = 2**31 - 1  # of a vocabulary that is not known yet


def run(
    config: LanguageModelRun,
    run_dir: Path,
    *,
    resume: bool = False,
    command: str = "",
    echo: Callable[[str], None] = print,
    texts: Texts | None = None,
    next_step: bool = True,
) -> Outcome:
    """Does what `hiddenstate train language-model` says; unless interrupted, `best.pt` carries its test scores.

    `texts` are those of `config.data`, where they have been read already; `next_step` tells how to publish the result.

    Raises:
        ValueError: the data, an option or the run folder is wrong; the message says which and why.
        TrainingError: training could not go on.
    """
    network_config(config, vocab_size=config.data.vocab_size or ANY_SIZE)  # what is wrong shows before texts are read
    RunDir(run_dir).prepare(resume)
    texts = texts or read_texts(config.data)
    shape = network_config(config, vocab_size=texts.vocab_size)
    if texts.vocab_size < (config.data.vocab_size or VOCAB_SIZE):
        echo(f"vocabulary: {texts.vocab_size:,}, all words of the text")
    echo(f"tokens: {len(texts.train):,} to train on, {len(texts.valid):,} for validation, {len(texts.test):,} test")
    for warning in warn_of_small_parts(texts):
        echo(warning)
    task = _task(config, shape, texts)
    echo(f"{sum(p.numel() for p in task.model.parameters()):,} parameters; the run is kept in {run_dir}")
    origin = Origin(
        kind="language_model",
        config=shape.to_dict(),
        config_defaults=shape.defaults(),
        tokenizer=texts.tokenizer.to_str(),
        data=describe_sources(config.data),
        command=command,
        run=to_tables(config),
    )
    outcome = train(task, origin, _options(config, run_dir, resume))
    echo(outcome.describe(f"of validation perplexity {outcome.best:.2f}"))
    if outcome.ending != "interrupted":
        echo(_describe_scores(measure(outcome.best_path, texts.test)))
        if next_step:
            data = [word for source in config.data.sources for word in ("--data", source)]
            step = shlex.join(["hiddenstate", "export", str(outcome.best_path), "--to", "models/", *data])
            echo(f"publish it with: {step}")
    return outcome


def network_config(config: LanguageModelRun, *, vocab_size: int) -> LanguageModelConfig:
    """Returns the shape of a run's network.

    Raises:
        ValueError: fields do not fit together; the message names one.
    """
    fields = {name: getattr(config.model, name) for name in config.model.__struct_fields__}
    return LanguageModelConfig(**fields, vocab_size=vocab_size, dropout=config.regularization.dropout)


def measure(path: Path, test: torch.Tensor) -> Scores:
    """Scores a checkpoint on held-out tokens, int64 [tokens], and writes the scores into its metrics.

    What "perplexity" was, the validation perplexity that it was chosen by, becomes "valid_perplexity".
    """
    checkpoint = load_checkpoint(path)
    model = LanguageModel(LanguageModelConfig.from_dict(dict(checkpoint.config))).eval()
    model.load_state_dict(dict(checkpoint.model))
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    unk = unk_id(tokenizer)
    scores = score(model, test, special_ids=(eos_id(tokenizer), unk), unk_id=unk)
    chosen_by = checkpoint.metrics.get("valid_perplexity", checkpoint.metrics.get("perplexity"))
    validation = {} if chosen_by is None else {"valid_perplexity": chosen_by}  # none: it ended before a validation
    save_checkpoint(path, dataclasses.replace(checkpoint, metrics={**validation, **dataclasses.asdict(scores)}))
    return scores


def _options(config: LanguageModelRun, run_dir: Path, resume: bool) -> TrainingOptions:
    return TrainingOptions(
        run_dir=run_dir,
        resume=resume,
        optimizer=config.optimizer,
        schedule=config.schedule,
        training=config.training,
    )


def _task(config: LanguageModelRun, shape: LanguageModelConfig, texts: Texts) -> LanguageModelTask:
    seed = config.training.seed
    torch.manual_seed(seed)  # the initial weights
    model = LanguageModel(shape, config.regularization).to(choose_device(config.training.device))
    task = LanguageModelTask(model, texts.train, texts.valid, batches=config.batches, seed=seed)
    if config.training.compile:
        task.compile()
    return task


def _describe_scores(scores: Scores) -> str:
    return (
        f"test perplexity {scores.perplexity:.2f}; next word right {scores.top1_accuracy:.1%} of the time, "
        f"among the first three {scores.top3_accuracy:.1%}; {scores.unk_rate:.1%} of the tokens unknown"
    )
