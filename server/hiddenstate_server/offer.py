"""What a server has for its callers, in the words of the announcement."""

from hiddenstate_server.announcement import Offer
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.repository import Repository, Served


def offer(repository: Repository) -> Offer:
    """Names the models, and a command that shows one."""
    example = _example_model(repository)
    return Offer(
        models=", ".join(f"{model.name} {model.version}" for model in repository.models()),
        command='predict "I would like to thank"'
        if isinstance(example, LanguageModel)
        else 'encode "A man plays a guitar."',
        model_option=_model_option(repository, example),
    )


def _example_model(repository: Repository) -> Served:
    models = repository.models()
    return next((model for model in models if isinstance(model, LanguageModel)), models[0])


def _model_option(repository: Repository, example: Served) -> str:
    """Returns what a caller has to add where several models could answer."""
    rivals = [model for model in repository.models() if isinstance(model, type(example))]
    return f" --model {example.name}" if len(rivals) > 1 else ""
