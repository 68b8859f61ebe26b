"""The command line: every command calls into a module of this room and maps errors to exit codes.

Exit codes: 0 all rows ok; 3 finished with quarantined rows (not inverted, within the allowed share,
or not measured by an annotator); 4 above that share, analyses not run; 1 error; 2 usage; 75 locked
by another run; 130 interrupted (Ctrl-C or SIGTERM: what is in hand is finished first; a second
signal stops at once).
"""

from __future__ import annotations

import atexit
import gc as garbage
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines import cli_encoders, cli_tools
from pipelines.cli_options import (
    Address,
    Keep,
    Mask,
    NewGenerator,
    NewRun,
    OldGenerator,
    OldRun,
    PictureWeight,
    ReadsFormats,
    Spec,
    Trust,
    Wait,
    WritesFormats,
    numbers_of,
    rows_of,
    usage_error,
    written,
)
from schemas.expected_errors import expected

app = typer.Typer(
    name="latentflow",
    help="Dataset-scale latent analysis of image generators: images become latents, annotations, "
    "directions and a report. Start with 'latentflow demo', or write a specification and "
    "'latentflow run' it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)


def _run(spec: Path, until: str, trust: bool, wait: float, address: str | None) -> None:
    from pipelines.engine.interruption import Interruption

    with Interruption() as stop:
        from pipelines.folder.specification import load_run_spec
        from pipelines.runs.run import run

        result = run(load_run_spec(spec), until=until, trust=trust, wait_s=wait, address=address,
                     console=console, stop=stop)  # fmt: skip
    if until == "report":
        shown = f"report: {result.path / 'report.html'}"
        console.print(shown, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)


def _echo_json(value: Any) -> None:
    from schemas.fingerprint import pretty_json

    typer.echo(pretty_json(value), nl=False)


@app.command("run")
def run_command(
    spec: Spec, trust: Trust = False, wait: Wait = 0.0, ray_address: Address = None
) -> None:
    """Run a specification: index, invert, annotate, analyse, evaluate, report.

    Only what is missing or stale is computed. Can be interrupted at any moment and run again.
    """
    _run(spec, "report", trust, wait, ray_address)


@app.command()
def index(spec: Spec) -> None:
    """Index the dataset: hash every file, join the factor table, report what does not match."""
    _run(spec, "index", False, 0.0, None)


@app.command()
def invert(spec: Spec, trust: Trust = False, wait: Wait = 0.0, ray_address: Address = None) -> None:
    """Index, then invert every image into the latent store (sampled rows: draw their codes)."""
    _run(spec, "invert", trust, wait, ray_address)


@app.command()
def annotate(
    spec: Spec, trust: Trust = False, wait: Wait = 0.0, ray_address: Address = None
) -> None:
    """Index, invert, then annotate every image and its reconstruction."""
    _run(spec, "annotate", trust, wait, ray_address)


@app.command()
def analyse(
    spec: Spec, trust: Trust = False, wait: Wait = 0.0, ray_address: Address = None
) -> None:
    """Index, invert, annotate, then run the analyses named under 'analyse'."""
    _run(spec, "analyse", trust, wait, ray_address)


@app.command()
def plan(spec: Spec) -> None:
    """Show what a run would compute, and which changed input makes it necessary.

    Also what the specification asks for and its data cannot give, and rows, disk space and time of
    the inversion. Writes nothing.
    """
    from pipelines.folder.specification import load_run_spec
    from pipelines.runs.plan import plan as plan_run

    plan_run(load_run_spec(spec), Console())


@app.command()
def verify(
    path: Annotated[
        Path,
        typer.Argument(
            help="Run folder, specification, latent store or direction set.",
            metavar="STORE_OR_RUN",
        ),
    ],
    repair: Annotated[
        bool,
        typer.Option(help="Remove damaged blocks and analyses; the next run makes them again."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    wait: Wait = 0.0,
) -> None:
    """Check all that a run has stored: checksums, fingerprints, fill values, directions, index.

    Names what is damaged and the cure. Exit code 0 when all is well, 1 when something is not.
    """
    from pipelines.engine.progress import stage_progress
    from pipelines.upkeep.show import show_verification
    from pipelines.upkeep.verify import verify as check

    with stage_progress(console, "verify") as progress:
        found = check(path, repair, wait, progress)
    if as_json:
        _echo_json(found.to_dict())
    else:
        show_verification(found, Console())
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def gc(
    path: Annotated[
        Path, typer.Argument(help="Run folder or specification.", metavar="RUN_OR_SPEC")
    ],
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it. Default: only list.")
    ] = False,
    older_than: Annotated[
        str, typer.Option(help="Keep what changed within this time: '12h', '1d', '0'.")
    ] = "1d",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    wait: Wait = 0.0,
) -> None:
    """List what no run refers to any more; with --delete, remove it.

    That is former stores, direction sets, statistics, evaluations, and files that killed runs left
    incomplete.
    """
    from pipelines.upkeep.gc import collect, seconds_of
    from pipelines.upkeep.show import show_collection

    found = collect(path, delete, seconds_of(older_than), wait)
    if as_json:
        _echo_json(found.to_dict())
    else:
        show_collection(found, Console())


@app.command()
def report(
    spec: Spec, out: Annotated[Path | None, written("File to copy the report to.")] = None
) -> None:
    """Write the HTML report of a finished run again, from what the run stored."""
    from pipelines.folder.specification import load_run_spec
    from pipelines.report.page import write_report

    path = write_report(Path(load_run_spec(spec).output_path))
    if out is not None:
        out.write_bytes(path.read_bytes())
        path = out
    console.print(f"report: {path}", markup=False)


@app.command()
def edit(
    spec: Spec,
    direction: Annotated[
        list[str],
        typer.Option(
            "--direction",
            "-d",
            help="Name of a direction, or axis of a space of the generator such as "
            "'placement.shift_x'; may repeat.",
        ),
    ],
    out: Annotated[Path, written("PNG to write, or folder for several directions.")],
    rows: Annotated[str, typer.Option(help="Rows of the dataset: '0,5,9' or '0-3'.")] = "0-3",
    strengths: Annotated[str, typer.Option(help="Strengths, comma-separated.")] = "-3,-1.5,0,1.5,3",
    unit: Annotated[
        str,
        typer.Option(
            help="Unit of strength: 'sd' (standard deviations of the codes along the direction) or "
            "'raw' (length in the latent space)."
        ),
    ] = "sd",
    layers: Annotated[
        str | None, typer.Option(help="Layers to edit: '0,5,9' or '0-3'. Default: all.")
    ] = None,
    mask: Mask = None,
    keep: Keep = None,
    picture_weight: PictureWeight = None,
    trust: Trust = False,
) -> None:
    """Edit rows along directions of the run's direction set, drawn as strips.

    A strip has a line of images for each row, strengths from left to right.
    """
    from pipelines.downstream.finished_run import edit_run
    from pipelines.folder.specification import load_run_spec

    amounts, chosen = numbers_of(strengths, "--strengths"), rows_of(rows, "--rows")
    only = None if layers is None else rows_of(layers, "--layers")
    loaded = load_run_spec(spec).trusting(trust)
    strips = edit_run(
        loaded, direction, out, chosen, amounts, unit, only, picture_weight, keep or (), mask
    )
    for path in strips:
        console.print(f"strip: {path}", markup=False)


@app.command(cls=WritesFormats)
def export(
    spec: Spec,
    out: Annotated[Path, written("File to write, or folder for formats of several files.")],
    kind: Annotated[
        str,
        typer.Option(
            "--as",
            help="Rows with codes, annotations and factors: 'parquet', 'huggingface' (folder), "
            "'safetensors' or 'npz'; without codes: 'annotations' (Parquet). Directions: "
            "'directions' (.npz or .safetensors). Or another project's format, of codes or of "
            "directions, listed below.",
        ),
    ] = "annotations",
    direction: Annotated[
        list[str] | None,
        typer.Option("--direction", "-d", help="Export this direction only; may repeat."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file or folder of an earlier export.")
    ] = False,
) -> None:
    """Export rows or directions for other tools.

    Only finished rows are exported; how many are left out is printed by reason. A file or folder
    appears under its name only once it is complete.
    """
    from pipelines.downstream.finished_run import export_run
    from pipelines.folder.specification import load_run_spec

    done = export_run(load_run_spec(spec), kind, out, direction or (), overwrite)
    for path in done.paths:
        console.print(f"wrote {path}", markup=False)
    if done.rows is not None:
        left_out = ", ".join(f"{n} {cause}" for cause, n in done.left_out.items() if n)
        console.print(f"{done.rows} rows; left out: {left_out or 'none'}", markup=False)
    for stage, n in done.not_measured.items():
        console.print(f"{n} of them without {stage}", markup=False)


@app.command("import", cls=ReadsFormats)
def import_command(
    spec: Spec,
    file: Annotated[Path, typer.Argument(help="Direction file of another project.")],
    space: Annotated[
        str,
        typer.Option(
            help="Latent space of its vectors: that of the run's codes, or the one that each of "
            "their layers repeats ('w' of 'w_plus')."
        ),
    ],
    generator: Annotated[
        str,
        typer.Option(
            help="Generator that its directions belong to: checkpoint, 'bundled:<name>' or "
            "fingerprint."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the direction, or prefix of several. Default: the keys in the file, else "
            "its name."
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="Format of the file, where several fit its contents."),
    ] = None,
) -> None:
    """Add directions from another project's file to a run's direction set.

    The file is recognised by its contents, and nothing in it is executed. Run the specification
    again to evaluate the directions.
    """
    import generators
    from pipelines.downstream.directions import import_directions
    from pipelines.downstream.finished_run import FinishedRun
    from pipelines.folder.specification import load_run_spec
    from schemas.store.lock import run_lock

    loaded = load_run_spec(spec)
    with run_lock(loaded.output_path):
        finished = FinishedRun.of(loaded)
        known = generator == finished.directions.generator_fp
        claimed = (
            generator
            if known
            else generators.fingerprint(generators.like(generator, loaded.generator))
        )
        for found in import_directions(finished, file, space, claimed, name, file_format):
            console.print(f"imported {found}", markup=False)


@app.command()
def diff(
    old: Annotated[Path, OldRun],
    new: Annotated[Path, NewRun],
    out: Annotated[Path | None, written("Folder for drift.json and drift.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
    samples: Annotated[int, typer.Option(help="Samples edited along each direction.", min=8)] = 64,
    strength: Annotated[
        float,
        typer.Option(
            help="Edit strength at which directions are compared, in standard deviations."
        ),
    ] = 2.0,
    old_generator: OldGenerator = None,
    new_generator: NewGenerator = None,
    trust: Trust = False,
) -> None:
    """Compare two runs: which directions survived a change of the model, which must not be reused.

    Each direction's cosine, principal angles and measured effect on the same samples. Give two
    specifications, run folders, or direction sets '<run>/directions/<store>'.
    """
    from pipelines.compare.diff import diff as compare_runs
    from pipelines.compare.diff import print_diff, write_diff
    from pipelines.compare.trial import Rule
    from pipelines.compare.two_runs import ComparedRun
    from pipelines.engine.progress import stage_progress

    sides = ComparedRun.open(old, old_generator), ComparedRun.open(new, new_generator)
    with stage_progress(console, "diff") as progress:
        result, strips = compare_runs(
            *sides, samples=samples, rule=Rule(strength), trust=trust, progress=progress, out=out
        )
    if as_json:
        _echo_json(result)
    else:
        print_diff(result, Console())
    for path in write_diff(result, strips, out) if out is not None else ():
        console.print(f"wrote {path}", markup=False)


@app.command()
def transfer(
    old: Annotated[Path, OldRun],
    new: Annotated[Path, NewRun],
    direction: Annotated[
        list[str], typer.Option("--direction", "-d", help="Name of a direction; may repeat.")
    ],
    wait: Wait = 0.0,
) -> None:
    """Map directions of an old run into a new run's set, by the images that both runs hold.

    They are called 'transferred.<name>', carry the map's error on held-out images,
    and stay when the run is renewed. Run the new specification again to evaluate them.
    """
    from pipelines.compare.transfer import transfer_directions
    from pipelines.compare.two_runs import ComparedRun

    sides = ComparedRun.open(old), ComparedRun.open(new)
    for found in transfer_directions(*sides, direction, wait):
        quality = found.quality
        console.print(
            f"{found.name}: by {quality['map']}, map error {quality['map_error']:.3g}, correlation "
            f"{quality['correlation']:.3f} on {quality['images_held_out']} held-out images",
            markup=False, highlight=False,
        )  # fmt: skip


app.add_typer(cli_encoders.app)
app.add_typer(cli_tools.app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script: one line for an error, its exit code, no traceback."""
    garbage.set_threshold(50_000)  # imports and tables make objects that stay
    atexit.register(garbage.freeze)  # and need not be looked through at the end
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # its errors are raised as well
    try:
        code: Any = app(arguments, standalone_mode=False)
    except KeyboardInterrupt:
        console.print("interrupted: run the same command again to go on", markup=False)
        sys.exit(130)
    except typer.Exit as e:
        sys.exit(e.exit_code)
    except BrokenPipeError:  # who read the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as e:
        told = usage_error(e) or expected(e)
        if told is None:
            raise
        console.print(f"error ({told.kind}): {told}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(told.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
