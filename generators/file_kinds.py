"""Files that are no checkpoint we can read, by name, each with the cure that works."""

from __future__ import annotations

import codecs
import contextlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from schemas.suggest import suggestion

CHECKPOINT_SUFFIXES = (".pkl", ".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_READ = "give a PyTorch checkpoint (.pkl, .pt, .pth, .ckpt) or a .safetensors file"
_HEAD = 4096

#: First bytes of a file -> what it is, and what to do.
_MAGIC: Sequence[tuple[bytes, str]] = (
    (
        b"\x1f\x8b",
        "is compressed with gzip: unpack it (gunzip, or tar xzf) and give the file in it",
    ),
    (b"BZh", "is compressed with bzip2: unpack it and give the file in it"),
    (b"\xfd7zXZ\0", "is compressed with xz: unpack it and give the file in it"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it and give the file in it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it and give the file in it"),
    (b"Rar!\x1a", "is a RAR archive: unpack it and give the file in it"),
    (b"GGUF", f"is a GGUF file of llama.cpp, quantised weights of a language model: {_READ}"),
    (b"\x89HDF\r\n\x1a\n", f"is an HDF5 file (Keras or another program): {_READ}"),
    (b"\x93NUMPY", f"is a single NumPy array (.npy): {_READ}"),
    (b"\x89PNG\r\n", f"is a PNG image: {_READ}"),
    (b"\xff\xd8\xff", f"is a JPEG image: {_READ}"),
    (b"%PDF-", f"is a PDF document: {_READ}"),
)
#: Endings of other frameworks' files, which have no first bytes of their own.
_ENDINGS: Sequence[tuple[str, str]] = (
    (r"\.onnx", "is an ONNX graph, which holds no generator's modules"),
    (r"\.pb", "is a TensorFlow graph"),
    (r"\.ckpt(-\d+)?\.(index|meta)|\.data-\d{5}-of-\d{5}", "is a part of a TensorFlow checkpoint"),
    (r"\.msgpack", "is a Flax (JAX) checkpoint"),
)
_LFS = b"version https://git-lfs.github.com/spec/"


def other_kind(path: Path, give: str = _READ, endings: bool = True) -> str | None:
    """What the file is, and what to do, where it can hold neither a pickle nor tensors; else None.

    give : the cure where the file is of no use. endings : whether its name counts, too. Only the
    first bytes and, of a zip archive, the names of its entries are looked at. Raises OSError when
    the file cannot be read.
    """
    kind = _kind_of(path, endings)
    return None if kind is None else kind.replace(_READ, give)


def said_of(path: Path, text: str) -> str:
    """A sentence about a file, of a text of `other_kind` or of a reader's error."""
    return f"{str(path)!r} {text}" if text.startswith("is ") else f"{str(path)!r}: {text}"


def is_torchscript(path: Path) -> bool:
    """Whether the file is an archive of a compiled torch program."""
    with contextlib.suppress(zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        with zipfile.ZipFile(path) as archive:
            return _is_compiled({name.split("/", 1)[-1] for name in archive.namelist()})
    return False


def _is_compiled(entries: set[str]) -> bool:
    return "constants.pkl" in entries or any(name.startswith("code/") for name in entries)


def _kind_of(path: Path, endings: bool) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "is empty (0 bytes): the copy or download did not finish; fetch it again"
    if head.startswith(_LFS):
        return (
            "is a Git LFS pointer, not the file itself: run 'git lfs pull' in its repository, or "
            "download the file from the repository's page"
        )
    if head[:2] == b"PK":
        return _zip_kind(path)
    for magic, text in _MAGIC:
        if head.startswith(magic):
            return text
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it (tar xf) and give the file in it"
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model: {_READ}"
    for ending, text in _ENDINGS if endings else ():
        if re.search(f"({ending})$", path.name.lower()):
            return f"{text}: {_READ}"
    return _text_kind(head, path.stat().st_size)


def _text_kind(head: bytes, size: int) -> str | None:
    """Markup and JSON, which no pickle begins like."""
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        title = re.search(r"<title[^>]*>\s*(.*?)\s*</title>", text, re.I | re.S)
        called = f" titled {title[1][:80]!r}" if title else ""
        return (
            f"is a web page or XML text{called}, not a checkpoint: the download ended at an error, "
            "login or confirmation page; download the file itself"
        )
    if text.startswith(("{", "[")):
        if '"weight_map"' in text:
            return (
                "is an index of a checkpoint in parts; of these only safetensors files are read: "
                "give '<name>.safetensors.index.json'"
            )
        return (
            "is JSON text, not a checkpoint: give the file that it describes, and keep the JSON "
            "beside it"
        )
    return None


def text_instead(path: Path) -> str | None:
    """What to say of a file that could not be read and is plain text; else None."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head[:200])
    except UnicodeDecodeError:
        return None
    if not text.strip() or any(not (c.isprintable() or c in "\t\r\n") for c in text):
        return None
    return (
        f"is text that begins with {text.strip()[:60]!r}, not a checkpoint: give the path of the "
        "checkpoint (a failed download leaves such a file, too: download it again)"
    )


def _zip_kind(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return None  # the reader says what is wrong with it
    inner = {name.split("/", 1)[-1] for name in names} | set(names)
    if "archive_format" in inner or "models/model.json" in inner:
        return (
            "is a torch.export archive (.pt2), a graph without the network's modules: save the "
            "network's state_dict() with torch.save before exporting it, and give that file"
        )
    if _is_compiled(inner):
        return (
            "is a TorchScript archive, a compiled graph: save its weights with "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pt') and give that file"
        )
    if "data.pkl" in inner:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return f"is an archive of NumPy arrays (.npz): {_READ}"
    if "model.weights.h5" in inner:
        return f"is a Keras model: {_READ}"
    held = [name for name in names if name.endswith(CHECKPOINT_SUFFIXES)]
    if held:
        return f"is a zip archive of files: unpack it and give {held[0][:120]!r}"
    return f"is a zip archive without an entry 'data.pkl', so not a torch file: {_READ}"


def no_bundled(what: str, uri: str, known: Sequence[str]) -> str:
    """That no bundled model is called ``uri``, and which are. known : their uris."""
    cure = suggestion(uri, sorted(known))
    return f"{what} {uri!r} is not part of this installation: {cure}, or give the path of a file"


def missing(path: Path, what: str, suffixes: tuple[str, ...] = CHECKPOINT_SUFFIXES) -> str:
    """Why there is no file at `path`, and what to do: a folder, a hub's id, or nothing.

    suffixes : endings of the files that are looked for.
    """
    if path.is_dir():
        return f"{what} {str(path)!r} is a folder: {_in_folder(path, suffixes)}"
    hub = ""
    plain = re.compile(r"[A-Za-z0-9][\w.-]*")
    if (
        not path.parent.exists()
        and path.suffix.lower() not in suffixes
        and plain.fullmatch(path.name)
        and plain.fullmatch(path.parent.name)
    ):
        hub = (
            f". If {path.parent.name + '/' + path.name!r} is the id of a model on a hub, download "
            "it first and give the path of its file: nothing is fetched from a network"
        )
    return f"{what} {str(path)!r} does not exist: correct the path{hub}"


def checkpoints_in(path: Path, suffixes: tuple[str, ...] = CHECKPOINT_SUFFIXES) -> list[str]:
    """Files of a folder that may be checkpoints, the index of one in parts before all."""
    names = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    whole = [name for name in names if name.endswith(".safetensors.index.json")]
    return whole or [name for name in names if name.endswith(suffixes)]


def _in_folder(path: Path, suffixes: tuple[str, ...]) -> str:
    names = {p.name for p in path.iterdir()}
    if "saved_model.pb" in names:
        return f"a TensorFlow SavedModel, which is not read; {_READ}"
    if "model_index.json" in names:
        return "a diffusers pipeline, which is not read; give a StyleGAN2 checkpoint"
    held = checkpoints_in(path, suffixes)
    if held:
        return f"give the file in it, such as {str(path / held[-1])!r}"
    return f"it holds no file that ends in one of {list(suffixes)!r}; give the path of a file"
