"""How much memory the models may take, counted by the size of their files."""

from hiddenstate_server.config import KIB, MIB
from hiddenstate_server.errors import ModelMemoryError
from hiddenstate_server.repository.files import VersionFiles


class MemoryBudget:
    """Bytes of all versions that are loaded, those included that still finish their work. For any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit  # 0 for none
        self._held: dict[int, int] = {}  # bytes by claim; a dictionary's own methods are atomic
        self._claims = iter(range(2**62))

    @property
    def bytes(self) -> int:
        """Bytes of all claims."""
        return sum(tuple(self._held.values()))

    def claim(self, files: VersionFiles) -> int:
        """Takes room for a version and returns what `release` needs.

        Raises:
            ModelMemoryError: there is not so much left.
        """
        left = self._limit - self.bytes
        if self._limit and files.size > left:
            raise ModelMemoryError(
                f"{files.name} version {files.version} has {_text(files.size)}, and {_text(max(0, left))} of "
                f"{_text(self._limit)} are left (--max-models-memory); unload a model, or raise the limit"
            )
        claim = next(self._claims)
        self._held[claim] = files.size
        return claim

    def release(self, claim: int) -> None:
        """Gives room back."""
        self._held.pop(claim, None)


def _text(size: int) -> str:
    unit, name = (MIB, "MiB") if size >= MIB else (KIB, "KiB")
    return f"{size / unit:,.1f} {name}"
