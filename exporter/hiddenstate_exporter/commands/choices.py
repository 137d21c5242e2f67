"""A list of choices with commas between them, as an option's value."""

from typing import Any

import click


class Choices(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """One or more of some words."""

    name = "choices"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Reads a list; a word that is no choice, or is there twice, is refused."""
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(","))
        for name in names:
            if name not in self._words:
                self.fail(f"{name!r} is none of {', '.join(self._words)}", param, ctx)
        if len(set(names)) < len(names):
            self.fail(f"{value!r} names one twice", param, ctx)
        return names
