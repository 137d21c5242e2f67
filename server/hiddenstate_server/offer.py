"""What a server has for its callers, in the words of the announcement."""

from hiddenstate_server.announcement import Offer
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.repository import Repository, Served
from hiddenstate_server.sentence_encoder import SentenceEncoder


def offer(repository: Repository) -> Offer:
    """Names the models, and a command that shows one."""
    if not repository.models():
        return Offer(models=f"no model yet, as {repository.source} is empty,", command="models", model_option="")
    example = _example_model(repository)
    return Offer(
        models=", ".join(f"{model.name} {model.version}" for model in repository.models()),
        command=_command(example),
        model_option=_model_option(repository, example),
    )


def _example_model(repository: Repository) -> Served:
    """Returns the first model of the kind that has most to show."""
    models = repository.models()
    bundled = (model for kind in (LanguageModel, SentenceEncoder) for model in models if isinstance(model, kind))
    return next(bundled, models[0])


def _command(example: Served) -> str:
    if isinstance(example, LanguageModel):
        return 'predict "I would like to thank"'
    return 'encode "A man plays a guitar."' if isinstance(example, SentenceEncoder) else "models"


def _model_option(repository: Repository, example: Served) -> str:
    """Returns what a caller has to add where several models could answer."""
    if not isinstance(example, LanguageModel | SentenceEncoder):
        return ""
    rivals = [model for model in repository.models() if isinstance(model, type(example))]
    return f" --model {example.name}" if len(rivals) > 1 else ""
