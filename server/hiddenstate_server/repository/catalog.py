"""Which model answers to which name. A catalog is never changed: another one takes its place."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

from hiddenstate_server.errors import InvalidRequestError, ModelNotFoundError
from hiddenstate_server.repository.loader import Served
from hiddenstate_server.repository.policy import version_key

M = TypeVar("M")


class Names(NamedTuple):
    """What the versions of one model are called beside their own names."""

    labels: Mapping[str, str]  # to versions, all of which are served
    default: str  # the version for callers who name none; empty for the newest
    missing: Mapping[str, str] = {}  # names that lead nowhere, and why


class Catalog:
    """Finds models by name and version, version being a label too. One lookup for each call."""

    def __init__(self, models: Iterable[Served], names: Mapping[str, Names]) -> None:
        self.models: Sequence[Served] = sorted(models, key=lambda model: (model.name, version_key(model.version)))
        self._names = names
        self._tables: dict[type | tuple[type, ...], dict[tuple[str, str], Served]] = {}

    def find(self, kind: type[M] | tuple[type[M], ...], name: str, version: str) -> M:
        """Returns a model of a kind; without a name the only one there is, without a version the default.

        Raises:
            ModelNotFoundError: there is none.
            InvalidRequestError: no name was given and there are several.
        """
        table = self._tables.get(kind)
        if table is None:
            table = self._tables[kind] = self._table(self._of(kind))
        model = cast("M | None", table.get((name, version)))
        if model is None:
            raise self._refusal(kind, name, version)
        return model

    def _of(self, kind: type | tuple[type, ...]) -> list[Served]:
        return [model for model in self.models if isinstance(model, kind)]

    def _table(self, models: Sequence[Served]) -> dict[tuple[str, str], Served]:
        table = {}
        for model in models:  # from the oldest version to the newest
            table[model.name, model.version] = table[model.name, ""] = model
        for name in {model.name for model in models}:
            names = self._names[name]
            also = {**names.labels, "": names.default}
            table |= {
                (name, label): table[name, version] for label, version in also.items() if (name, version) in table
            }
            if "" in names.missing:
                del table[name, ""]
        if len({model.name for model in models}) == 1:
            table |= {("", version): model for (_, version), model in table.items()}
        return table

    def _refusal(
        self, kind: type | tuple[type, ...], name: str, version: str
    ) -> InvalidRequestError | ModelNotFoundError:
        models = self._of(kind)
        there = ", ".join(f"{model.name} version {model.version}" for model in models) or "none"
        if not name and len({model.name for model in models}) > 1:
            return InvalidRequestError(f"model: is empty, but there are several; name one of: {there}")
        named = [model for model in models if model.name == (name or model.name)]
        if named:
            return self._no_version(named, version)
        if not models and not name:
            return ModelNotFoundError("model: the server has none for this call; ListModels tells what it has")
        problem = f"no model {name[:64]!r} answers this call"
        if any(model.name == name for model in self.models):
            problem = f"{name} is a model of another kind than this call needs"
        return ModelNotFoundError(f"model: {problem}; there is: {there}")

    def _no_version(self, named: Sequence[Served], version: str) -> ModelNotFoundError:
        name = named[0].name
        labels, _, missing = self._names[name]
        there = ", ".join([model.version for model in named] + [f"{label} ({at})" for label, at in labels.items()])
        why = f", because {missing[version]}" if version in missing else ""
        return ModelNotFoundError(f"model_version: {name} has no version {version[:64]!r}{why}; there is: {there}")
