"""Every model of a repository as the Open Inference Protocol reaches it."""

from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import ModelNotFoundError
from hiddenstate_server.inference.language_model_tensors import LanguageModelTensors
from hiddenstate_server.inference.sentence_encoder_tensors import SentenceEncoderTensors
from hiddenstate_server.inference.sequences import Sequences
from hiddenstate_server.inference.tensors import TensorModel
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.repository import Repository, Served
from hiddenstate_server.sentence_encoder import SentenceEncoder
from hiddenstate_server.sequence_metrics import SequenceMetrics

Adapted = LanguageModelTensors | SentenceEncoderTensors


class TensorModels:
    """Finds models; those that do not speak of tensors are given an adapter, which lives as long as they do."""

    def __init__(self, repository: Repository, settings: EngineSettings, metrics: SequenceMetrics) -> None:
        self._repository = repository
        self._settings = settings
        self._metrics = metrics
        self._adapted: WeakKeyDictionary[LanguageModel | SentenceEncoder, Adapted] = WeakKeyDictionary()
        repository.keep_while(lambda model: bool(_sequences_of(self._tensors_of(model))))

    def find(self, name: str, version: str = "") -> TensorModel:
        """Returns a model by name and version or label; without a version the default.

        Raises:
            ModelNotFoundError: there is none.
        """
        return self._tensors_of(self._repository.find(name, version))

    def find_going_on(self, model: TensorModel, sequence_id: int | str) -> TensorModel:
        """Returns who holds a sequence: a version that `model` has replaced, or else `model`."""
        if sequence_id not in _sequences_of(model):
            for older in map(self._tensors_of, self._repository.ending(model.name)):
                if sequence_id in _sequences_of(older):
                    return older
        return model

    def find_all(self, name: str = "", version: str = "") -> Sequence[TensorModel]:
        """Returns all versions of all models, or only those of a name, or only one.

        Raises:
            ModelNotFoundError: a name is given, and there is none.
        """
        if name and version:
            return [self.find(name, version)]
        if name:
            self.find(name)
        elif version:
            raise ModelNotFoundError("version: is set and name is not; name the model that it is a version of")
        return [self._tensors_of(model) for model in self._repository.models() if name in ("", model.name)]

    def _tensors_of(self, model: Served) -> TensorModel:
        if not isinstance(model, LanguageModel | SentenceEncoder):
            return model
        adapted = self._adapted.get(model)
        if adapted is None:
            adapted = self._adapt(model)
            self._adapted[model] = adapted
        return adapted

    def _adapt(self, model: LanguageModel | SentenceEncoder) -> Adapted:
        if isinstance(model, LanguageModel):
            adapted = LanguageModelTensors(model, self._settings)
            self._metrics.watch(model=model.name, version=model.version, sequences=adapted.sequences)
            return adapted
        return SentenceEncoderTensors(model, self._settings)


def _sequences_of(model: TensorModel) -> Collection[int | str]:
    """Returns the ids that a model can go on with."""
    sequences: Sequences[Any] | None = getattr(model, "sequences", None)
    return sequences.ids if sequences else ()
