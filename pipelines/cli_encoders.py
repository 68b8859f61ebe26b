"""Commands of encoders: training one, and answering pictures by one as they come.

Errors and exit codes are those of `pipelines.cli`, which all commands belong to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines.cli_options import Spec, Trust
from schemas.errors import UsageError

app = typer.Typer()
console = Console(stderr=True)


@app.command("train-encoder")
def train_encoder_command(
    spec: Spec,
    anew: Annotated[
        bool, typer.Option("--anew", help="Train another in place of one that is there already.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Train an encoder of the specification's generator, on the generator's own samples.

    'train_encoder' of the specification says how; no images are needed. Any generator will do. With
    'encoder: trained' a run then inverts with it. Can be interrupted at any moment and run again.
    """
    from pipelines.engine.interruption import Interruption

    with Interruption() as stop:
        from pipelines.encoder_training.train import train_encoder
        from pipelines.folder.specification import load_run_spec

        train_encoder(load_run_spec(spec).trusting(trust), console, stop, anew)


@app.command()
def answer(
    spec: Spec,
    frames: Annotated[Path, typer.Argument(help="Folder of pictures, such as a camera's frames.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the drawn pictures and codes. Default: 'answers' in the run folder."
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Wait for further pictures, and end when none has come for so many seconds.",
        ),
    ] = 0.0,
    trust: Trust = False,
) -> None:
    """Encode and draw pictures one by one, as they come, and tell the latency of each.

    By encoder and generator of the specification, in this process; nothing is stored in its run
    folder but the answers. With an encoder of sketches: drawings, answered by pictures.
    """
    from pipelines.downstream.frames import (
        Answer,
        Answering,
        answer_frames,
        new_files,
        told_latency,
    )
    from pipelines.folder.specification import load_run_spec

    if not frames.is_dir():
        raise UsageError(f"{str(frames)!r} is no folder: give one of pictures")

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tell(found: Answer) -> None:
        say(f"{found.name}: {found.refused or f'{found.seconds * 1e3:.1f} ms'}")

    read = load_run_spec(spec).trusting(trust)
    folder = out or Path(read.output_path, "answers")
    if folder.resolve() == frames.resolve():
        raise UsageError(f"'--out' is the folder of the pictures, {str(frames)!r}: give another")
    seconds = answer_frames(Answering(read), new_files(frames, patience), folder, tell)
    say(f"{told_latency(seconds)}: {folder}")
