"""Options that commands share, their values (paths and lists), and help that lists what is
installed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from schemas.errors import UsageError

#: Rows or layers that one option may name.
MAX_ROWS = 4096


Mask = Annotated[
    Path | None,
    typer.Option(
        help="For directions of feature maps: image that says where to edit, white all, black not. "
        "It is resized to the maps."
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="Direction whose attribute is to stay: it is projected out of the edit "
        "(conditional manipulation); may repeat.",
    ),
]
PictureWeight = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="For 'nrsfm.*': reach the same pose and shape by gradient steps, with this weight "
        "on the mean squared change of the image.",
    ),
]


class _ListsFormats(typer.core.TyperCommand):
    """A command whose help ends with the file formats that are installed. They are loaded when the
    help is asked for, so that no other command waits for them."""

    title = "Formats that are read"

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from generators.peers.catalog import PEERS

        lines = [f"{name} ({files}): {contents}" for name, files, contents in self.rows()]
        self.epilog = "\n\n".join([f"{self.title}:", *lines, *PEERS.broken().values()])
        super().format_help(ctx, formatter)

    def rows(self) -> list[tuple[str, str, str]]:
        """(format, files, contents) of each."""
        from generators.peers.catalog import direction_formats

        formats = direction_formats().values()
        return [(each.name, each.files, each.contents) for each in formats]


class ReadsFormats(_ListsFormats):
    """Lists the formats of directions that are read."""


class WritesFormats(_ListsFormats):
    """Lists the formats of codes and of directions that are written."""

    title = "Other projects' formats"

    def rows(self) -> list[tuple[str, str, str]]:
        """(format, files, contents) of each."""
        from generators.peers.catalog import direction_formats, latent_formats

        codes = [each for each in latent_formats().values() if each.files]
        directions = [each for each in direction_formats().values() if each.writes]
        return [
            *((c.name, f"folder with {', '.join(c.files.values())}", c.contents) for c in codes),
            *((d.name, d.files, d.contents) for d in directions),
        ]


def path_of(text: str | Path) -> Path:
    """A file or folder to write. Raises UsageError for what is none of this machine's: an object
    store's URL would become a folder here."""
    from schemas.sections.types import local_path

    try:
        return local_path(str(text))
    except ValueError as e:
        raise UsageError(f"{str(text)!r} is no path to write to: {e}") from e


def written(text: str) -> Any:
    """Option that names a file or folder to write."""
    return typer.Option(help=text, parser=path_of, metavar="PATH")


Spec = Annotated[
    Path, typer.Argument(help="Run specification (YAML); see 'latentflow schema'.", metavar="SPEC")
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Allow TorchScript models, which can run code from their file."),
]
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait for another run's lock.", min=0)
]
OldRun = typer.Argument(help="The older run.", metavar="OLD")
NewRun = typer.Argument(help="The newer run.", metavar="NEW")
OldGenerator = Annotated[
    str | None,
    typer.Option(
        help="The old run's generator file, if the one that its specification names has "
        "changed since."
    ),
]
NewGenerator = Annotated[str | None, typer.Option(help="The new run's generator file, likewise.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="Address of a Ray cluster. Default: 'ray.address' of the specification, else a local "
        "one.",
    ),
]


def numbers_of(text: str, option: str) -> list[float]:
    """Finite numbers with commas between them. Raises UsageError for anything else."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as e:
        raise UsageError(f"{option} is {text!r}: give numbers with commas between") from e
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"{option} is {text!r}: give finite numbers")
    return numbers


def rows_of(text: str, option: str) -> list[int]:
    """Row or layer numbers, as in '0,5,9' or '0-3'. Raises UsageError for anything else, for spans
    that end before they begin, and for more than `MAX_ROWS`."""
    rows: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            span = range(int(first), int(last if dash else first) + 1)
            if not span:
                raise UsageError(f"{option} is {text!r}: {part!r} ends before it begins")
            if len(rows) + len(span) > MAX_ROWS:
                raise UsageError(f"{option} is {text!r}: give at most {MAX_ROWS} at a time")
            rows += span
    except ValueError as e:
        raise UsageError(f"{option} is {text!r}: give numbers like '0,5,9' or '0-3'") from e
    return rows


def usage_error(error: Exception) -> UsageError | None:
    """An error of typer's, which tells what is wrong with the command line."""
    said = getattr(error, "format_message", None)
    if said is None:
        return None
    context = getattr(error, "ctx", None)
    command = "latentflow" if context is None else context.command_path
    what = " ".join(said().split()).rstrip(".") or "give a command"
    return UsageError(f"{what}: see '{command} --help'")
