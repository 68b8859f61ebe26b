"""Tables of `latentflow verify` and `latentflow gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.verify import Verification


def show_verification(found: Verification, console: Console) -> None:
    """What was checked, what is wrong with it and what cures it, for people."""
    table = Table(box=None)
    for heading in ("stage", "blocks", "good", "waiting", "damaged", "mismatched", "fingerprints"):
        table.add_column(heading)
    for stage in found.stages:
        counts = (stage.blocks, stage.good, stage.waiting)
        lists = (len(stage.damaged), len(stage.mismatched))
        table.add_row(stage.stage, *map(str, counts), *map(str, lists), stage.fingerprints)
    if found.stages:
        console.print(table)
    if found.directions:
        counts = found.directions
        console.print(
            f"direction set: {counts['directions']} directions, {counts['models']} models, "
            f"{counts['damaged']} damaged",
            markup=False,
        )
    if found.index_rows is not None:
        console.print(f"index: {found.index_rows} rows", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True, highlight=False)
    for problem in found.problems:
        text = f"{problem.where}: {problem.what}; {problem.cure}"
        console.print(text, markup=False, soft_wrap=True, highlight=False)
    for part in found.repaired:
        console.print(f"taken out: {part}", markup=False, soft_wrap=True, highlight=False)
    wrong = len(found.problems)
    verdict = "all is well" if found.ok else f"{wrong} problem{'s' if wrong > 1 else ''}"
    console.print(f"{verdict}, {decimal(found.bytes_read)} read", markup=False)
