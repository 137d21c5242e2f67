"""Compiles the server's modules when the package is built or installed (tools/compile.py says which and how)."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parents[1]))  # it is run by its path

from tools.compile import (
    INTERPRETED,
    VARIABLE,
    CannotCompileError,
    CompilationError,
    compile_changed,
    wish,
)
from tools.compiled_modules import FOLDER, extension, remove, sources


class CompiledModules(BuildHookInterface[Any]):  # type: ignore[misc]  # it is not where mypy is
    """Puts compiled modules into a wheel, beside their sources. An editable installation has them in place."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, if that is wanted and possible. `version` is what hatchling calls the kind of wheel."""
        root, wanted = Path(self.root), wish()
        if wanted == "0":
            if version == "editable":
                remove(root)
            return
        try:
            compile_changed(root)
        except (CannotCompileError, CompilationError) as error:
            if wanted == "1":
                raise SystemExit(f"{VARIABLE}=1: {error}") from None
            self.app.display_warning(f"{INTERPRETED}: {error}")
            return
        if version != "editable":
            self._include(root, build_data)

    def _include(self, root: Path, build_data: dict[str, Any]) -> None:
        compiled = [path for source in sources(root) if (path := extension(root, source))]
        build_data["force_include"].update({str(path): str(path.relative_to(root / FOLDER)) for path in compiled})
        build_data["pure_python"] = not compiled
        build_data["infer_tag"] = bool(compiled)
