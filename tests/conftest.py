"""What has to be so before the server is imported: its compiled modules are of the sources that are to be tested."""

import os
from pathlib import Path

from interpreted import prefer_sources
from tools.compiled_modules import stale

if os.environ.get("HIDDENSTATE_INTERPRETED") == "1":
    prefer_sources()
elif changed := stale(Path(__file__).parents[1]):
    names = ", ".join(source.stem for source in changed)
    raise SystemExit(f"Compiled modules are not of the sources that are here: run `make compile` ({names})")
