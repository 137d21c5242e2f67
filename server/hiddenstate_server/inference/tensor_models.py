"""Every model of a repository as the Open Inference Protocol reaches it."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import ModelNotFoundError
from hiddenstate_server.inference.language_model_tensors import LanguageModelTensors
from hiddenstate_server.inference.sentence_encoder_tensors import SentenceEncoderTensors
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

    def find(self, name: str, version: str = "") -> TensorModel:
        """Returns a model by name and version or label; without a version the default.

        Raises:
            ModelNotFoundError: there is none.
        """
        return self._tensors_of(self._repository.find(name, version))

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
