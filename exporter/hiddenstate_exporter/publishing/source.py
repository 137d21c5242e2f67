"""What `hiddenstate export` can publish: a checkpoint, or a sentence-transformers folder with a BERT in it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiddenstate_exporter.foreign.transformer_files import TransformerFolderError, read_license
from hiddenstate_exporter.foreign.transformer_folder import TransformerFolder, read_transformer
from hiddenstate_exporter.training.checkpoint import Checkpoint, load_checkpoint
from hiddenstate_exporter.training.teacher import MODEL_MARKER, PACKAGE_PREFIX, find_in_package

NOT_STATED: Final = "not stated"

Model = Checkpoint | TransformerFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that can be published."""

    model: Model
    name: str  # of its bundle, unless another is asked for
    origin: str  # for people

    def license(self) -> str:
        """Returns the licence of the weights, as far as it is known.

        Raises:
            TransformerFolderError: a folder's card names none: then a person has to say it.
        """
        if isinstance(self.model, Checkpoint):
            return NOT_STATED
        found = read_license(self.model.folder)
        if found is None:
            raise TransformerFolderError(
                f"{self.model.folder}: its README.md names no licence; say under which one the weights may be used: "
                "--license TEXT"
            )
        return found


def read_source(path: Path) -> Source:
    """Reads a checkpoint file, a folder, or `package:NAME`, an installed package that carries such a folder.

    Raises:
        CheckpointError: the file cannot be read.
        TransformerFolderError: the folder holds no model that can be exported.
        StateDictError: its weights are damaged.
        TeacherError: there is no such package.
    """
    spec = str(path)
    if spec.startswith(PACKAGE_PREFIX):
        package = re.sub(r"[-_.]+", "-", spec.removeprefix(PACKAGE_PREFIX)).lower()  # as package indexes name it
        version, folder = find_in_package(package)
        return Source(model=read_transformer(folder), name=package, origin=f"package {package} {version}")
    if not path.is_dir():
        return Source(model=load_checkpoint(path), name=path.absolute().parent.name, origin=path.name)
    if not (path / MODEL_MARKER).is_file():
        raise TransformerFolderError(
            f"{path}: is a folder without {MODEL_MARKER}; give a checkpoint (a file such as best.pt), or a folder that "
            "sentence-transformers saved"
        )
    name = path.resolve().name
    return Source(model=read_transformer(path), name=name, origin=f"folder {name}")
