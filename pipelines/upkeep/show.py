"""Tables of `latentflow verify` and `latentflow gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.upkeep.gc import Collection
    from pipelines.upkeep.verify import Verification


def show_verification(found: Verification, console: Console) -> None:
    """What was checked, what is wrong with it and what cures it, for people."""
    table = Table(box=None)
    for heading in ("stage", "blocks", "good", "pending", "damaged", "mismatched", "fingerprints"):
        table.add_column(heading)
    for stage in found.stages:
        counts = (stage.blocks, stage.good, stage.waiting)
        lists = (len(stage.damaged), len(stage.mismatched))
        table.add_row(stage.stage, *map(str, counts), *map(str, lists), stage.fingerprints)
    if found.stages:
        console.print(table)
    if found.directions:
        held = found.directions
        console.print(
            f"direction set: {held['directions']} directions, {held['models']} models, "
            f"{held['damaged']} damaged",
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
        console.print(f"removed: {part}", markup=False, soft_wrap=True, highlight=False)
    wrong = len(found.problems)
    verdict = "all is well" if found.ok else f"{wrong} problem{'s' if wrong > 1 else ''}"
    console.print(f"{verdict}, {decimal(found.bytes_read)} read", markup=False)


def show_collection(found: Collection, console: Console) -> None:
    """What can be removed, or was, and what is kept, for people."""
    table = Table(box=None)
    for heading in ("artefact", "kind", "size", "age", ""):
        table.add_column(heading, overflow="fold")
    for artefact in found.removable:
        state = artefact.note or ("removed" if found.deleted else "")
        table.add_row(escape(artefact.path), artefact.kind, decimal(artefact.bytes),
                      _age(artefact.age_s), escape(state))  # fmt: skip
    for artefact in found.young:
        state = "kept: changed recently" + (f"; {artefact.note}" if artefact.note else "")
        table.add_row(escape(artefact.path), artefact.kind, decimal(artefact.bytes),
                      _age(artefact.age_s), escape(state))  # fmt: skip
    if found.removable or found.young:
        console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True, highlight=False)
    verb = "removed" if found.deleted else "can be removed with --delete"
    count = len(found.removable)
    what = f"{count} artefact{'' if count == 1 else 's'}, {decimal(found.bytes)}, {verb}"
    console.print(what if count else "nothing to remove", markup=False)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
