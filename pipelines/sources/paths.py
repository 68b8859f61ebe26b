"""Paths inside a dataset: containment in its root, glob patterns, natural order."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from schemas.errors import InputError

IMAGE_ENDINGS = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .gif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm "
    ".jp2 .j2k .jpx .avif .avifs .mpo .ico".split()
)

#: What a file's ending says about pictures that are not read, and about files that hold more files.
UNREAD_ENDINGS = {
    ".heic": "HEIC",
    ".heics": "HEIC",
    ".heif": "HEIF",
    ".heifs": "HEIF",
    ".hif": "HEIF",
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".wdp": "JPEG XR",
    ".hdp": "JPEG XR",
    ".psd": "Photoshop",
    ".psb": "Photoshop",
    ".xcf": "GIMP",
    ".svg": "SVG",
    ".svgz": "SVG",
    ".eps": "PostScript",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".tga": "TGA",
    ".dds": "DDS",
    ".qoi": "QOI",
    ".pcx": "PCX",
    ".sgi": "SGI",
    ".bpg": "BPG",
    ".dcm": "DICOM",
    **dict.fromkeys(
        ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srw .orf .rw2 .raf .pef .raw .3fr".split(),
        "camera raw",
    ),
    **dict.fromkeys(".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg".split(), "video"),
    **dict.fromkeys(".zip .tar .tgz .gz .bz2 .xz .zst .7z .rar".split(), "archive"),
}
#: Files that ordinarily stand beside images; nobody needs to be told of them.
SIDECAR_ENDINGS = frozenset(
    ".txt .csv .tsv .tab .json .jsonl .ndjson .parquet .pq .md .rst .html .htm .xml .yaml .yml "
    ".toml .ini .cfg .log .lst .list .py .ipynb .sh .npy .npz .pt .pkl .mat .h5 .hdf5 .db .sqlite "
    ".pdf .bib .cls .cls2 .idx .index .url .lnk .sha256 .md5 .license hidden".split()
)
HIDDEN = "hidden"

_URL = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+")


def inside(root: str | Path, relative: str) -> Path:
    """The file ``relative`` below ``root``, after following links.

    root : absolute folder without links
    Raises InputError for anything that is not a plain relative path below the root: absolute,
    with a drive, a URL, "..", a NUL, or a link that leads outside.
    """
    if _URL.match(relative):
        raise InputError(
            f"{relative!r} is a URL, and images are read from this machine only: download them, "
            "and name the files"
        )
    unsafe = (
        not relative
        or "\0" in relative
        or relative.startswith(("/", "\\", "~"))
        or relative[1:2] == ":"
        or relative[:5].lower() == "file:"
        or ".." in relative.replace("\\", "/").split("/")
    )
    if unsafe:
        raise InputError(
            f"path {relative!r} reaches outside the dataset's root {str(root)!r}: "
            "use paths relative to the root, without '..'"
        )
    path = below = os.path.join(root, relative)
    while len(below) > len(str(root)) and not os.path.islink(below):
        below = below[: below.rfind("/")]
    if len(below) > len(str(root)):
        real = os.path.realpath(path)
        if not real.startswith(os.path.join(root, "")):
            raise InputError(
                f"path {relative!r} is a link to {real!r}, outside the dataset's root "
                f"{str(root)!r}: copy the file, or set the root higher"
            )
    return Path(path)


def below_root(root: str, path: str) -> str:
    """``path`` relative to ``root`` where it is absolute (or a file URL) and lies below it, else
    as it is. It reaches no file that `inside` would not allow: that is still to be asked.

    root : absolute folder without links
    """
    text = path.removeprefix("file://") if path.startswith("file:///") else path
    if not os.path.isabs(text) or ".." in text.split("/") or "\0" in text:
        return path
    for whole in (os.path.normpath(text), os.path.join(_real(os.path.dirname(text)), _name(text))):
        if whole.startswith(os.path.join(root, "")):
            return os.path.relpath(whole, root)
    return path


@functools.lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def natural_key(text: str) -> tuple[str, str]:
    """Sort key under which "a2" comes before "a10"; equal only for equal strings.

    A number becomes "0", its count of digits as one character, and its digits: fewer digits sort
    first, and numbers keep their place among other characters.
    """

    def number(match: re.Match[str]) -> str:
        digits = match.group().lstrip("0") or "0"
        return f"0{chr(len(digits))}{digits}"

    return _DIGITS.sub(number, text), text


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Does a relative path match any of the globs?

    ``*`` and ``?`` stay within one folder, ``**`` crosses folders, ``[abc]`` and ``[!abc]`` are
    character classes. A pattern without a slash is matched against the file name at any depth.
    """
    whole: list[re.Pattern[str]] = []
    names: list[re.Pattern[str]] = []
    for pattern in patterns:
        (whole if "/" in pattern else names).append(re.compile(_regex(pattern.removeprefix("./"))))

    def matches(relative: str) -> bool:
        name = _name(relative)
        return any(p.fullmatch(relative) for p in whole) or any(p.fullmatch(name) for p in names)

    return matches


def selector(
    patterns: Sequence[str] | None, exclude: Sequence[str], endings: frozenset[str]
) -> Callable[[str], bool]:
    """Is a relative path taken: by ``patterns``, or without them by its ending?

    A hidden file (``.DS_Store``, ``._0001.png``) is taken only by a pattern whose file name begins
    with a dot.
    """
    left_out = matcher(exclude)
    if patterns is None:
        return lambda path: not hidden(path) and suffix(path) in endings and not left_out(path)
    plain, dotted = matcher(patterns), matcher([p for p in patterns if hidden(p)])
    return lambda path: (dotted if hidden(path) else plain)(path) and not left_out(path)


def hidden(relative: str) -> bool:
    """Whether the file's name begins with a dot."""
    return _name(relative).startswith(".")


def kind_of(relative: str) -> str:
    """How a file that is not taken is counted: by its ending, or as "hidden"."""
    return HIDDEN if hidden(relative) else suffix(relative)


def suffix(relative: str) -> str:
    """Lower-case ending with its dot, "" where there is none."""
    return os.path.splitext(relative)[1].lower()


def _regex(pattern: str) -> str:
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif pattern.startswith("**", i):
            out, i = out + ".*", i + 2
        elif pattern[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif pattern[i] == "?":
            out, i = out + "[^/]", i + 1
        elif pattern[i] == "[" and (end := pattern.find("]", i + 2)) > 0:
            inner = pattern[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inner = "^" + inner[1:] if inner[0] in "!^" else inner
            out, i = f"{out}(?!/)[{inner}]", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return out
