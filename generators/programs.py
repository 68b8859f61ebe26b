"""Networks in files that are programs: ONNX, torch.export and TorchScript, read without running.

What a family is shown of them is a `Program`: its inputs and outputs, and its parts as arrays, from
which it is built. Parts of an ONNX model are the bytes of its files, data files included; of a
TorchScript archive its own; of a torch.export archive see `generators.exported`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from generators.exported import is_exported, read_exported
from generators.file_kinds import is_torchscript
from generators.onnx_files import Port, data_files, ports
from schemas.errors import CheckpointError, UnsafeCheckpointError

Container = Literal["onnx", "torch.export", "torchscript"]
ONNX: Container = "onnx"
EXPORTED: Container = "torch.export"
TORCHSCRIPT: Container = "torchscript"
WORDS = {ONNX: "an ONNX model", EXPORTED: "a torch.export archive",
         TORCHSCRIPT: "a TorchScript archive"}  # fmt: skip
#: Name of the part that is the file itself.
MODEL = "model"
#: Begins the names of the parts that are data files.
DATA = "data/"
ENDING = ".onnx"
EXPORTED_ENDING = ".pt2"


@dataclass(frozen=True, eq=False)
class Program:
    """A network as a program.

    inputs, outputs : none of a TorchScript archive, which does not tell. parts : name -> array.
    """

    container: Container
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


def read_program(path: Path, max_bytes: int) -> Program | None:
    """The program in a file; None for a file of another kind.

    Raises CheckpointError for a damaged one, UnsafeCheckpointError for more than `max_bytes`.
    """
    if path.suffix.lower() == ENDING:
        inputs, outputs = ports(path)
        beside = {f"{DATA}{name}": file for name, file in data_files(path, "").items()}
        files = {MODEL: path, **beside}
        return Program(ONNX, inputs, outputs, _bytes(files, max_bytes))
    if is_exported(path):
        _check_size([path], max_bytes)
        found = read_exported(path)
        return Program(EXPORTED, found.inputs, found.outputs, found.parts)
    if path.suffix.lower() == EXPORTED_ENDING and _is_cut(path):
        raise CheckpointError(
            "is an archive of torch.export that is cut off or damaged: copy it again"
        )
    if is_torchscript(path):
        return Program(TORCHSCRIPT, parts=_bytes({MODEL: path}, max_bytes))
    return None


def _is_cut(path: Path) -> bool:
    """Whether a file begins as a zip archive and does not end as that one. The last archive that is
    whole inside a cut one would be read in its place."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(path) as archive:
            return file.read(2) == b"PK" and all(i.header_offset for i in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        with path.open("rb") as file:
            return file.read(2) == b"PK"


def program_files(path: Path) -> list[Path]:
    """Every file that a program consists of. Raises CheckpointError for a damaged one."""
    return [path, *data_files(path, "").values()] if path.suffix.lower() == ENDING else [path]


def _bytes(files: Mapping[str, Path], max_bytes: int) -> dict[str, np.ndarray]:
    _check_size(list(files.values()), max_bytes)
    return {name: np.fromfile(file, np.uint8) for name, file in files.items()}


def _check_size(files: list[Path], max_bytes: int) -> None:
    size = sum(file.stat().st_size for file in files)
    if size > max_bytes:
        raise UnsafeCheckpointError(
            f"has {size} bytes, the cap is {max_bytes}: raise 'Limits.max_bytes' if the file is "
            "really that large"
        )
