"""Images that are files below a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from generators.protocols import ModelFacts
from pipelines.sources.base import (
    DATASET_JSON,
    Item,
    Listing,
    add_labels,
    file_errors,
    is_table,
    place_of,
    utf8,
    walk_files,
)
from pipelines.sources.paths import IMAGE_ENDINGS, inside, kind_of, selector, suffix
from schemas.errors import InputError, SpecError
from schemas.sections.dataset import LABEL, DatasetSpec

LINK_OUTSIDE = "a link to a file outside the dataset's root: copy the file, or set the root higher"


def open_dataset(dataset: DatasetSpec, facts: ModelFacts | None) -> FolderSource:
    """See `pipelines.sources.open`."""
    path = place_of(dataset)
    if not path.is_dir():
        raise SpecError(
            f"'dataset.path' is {dataset.path!r}, which is a file: name a folder, or set "
            "'dataset.kind' to 'zip', 'parquet' or 'webdataset'"
        )
    factors = None if dataset.factors is None else os.path.realpath(dataset.factors)
    labels = dataset.factors is None and LABEL not in dataset.ignore
    return FolderSource(str(path), dataset.patterns, tuple(dataset.exclude), factors, labels)


@dataclass(frozen=True)
class FolderSource:
    """Image files below ``root``. ``without`` is a file (the factor table) that is no image.

    labels : a ``dataset.json`` in the root gives its images' factor `LABEL`
    """

    root: str
    pattern: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    without: str | None = None
    labels: bool = False

    def list(self) -> Listing:
        """All files that the pattern (or their ending) selects, in natural order."""
        listing, taken = Listing(), selector(self.pattern, self.exclude, IMAGE_ENDINGS)
        for relative in walk_files(self.root, listing):
            path = os.path.join(self.root, relative)
            linked = os.path.islink(path)
            if (os.path.realpath(path) if linked else path) == self.without:
                listing.skipped[suffix(relative)] += 1
            elif not taken(relative):
                listing.skipped[kind_of(relative)] += 1
                if self.without is None and is_table(relative):
                    listing.notes.append(
                        f"the table {relative!r} beside the images is not read: name it under "
                        "'dataset.factors' if it tells about them"
                    )
            elif linked and not _leads_inside(self.root, relative):
                listing.refused.append((relative, LINK_OUTSIDE))
            else:
                listing.items.append(Item(utf8(relative), relative))
        file = Path(self.root, DATASET_JSON)
        if self.labels and file.is_file():
            listing.notes = [n for n in listing.notes if repr(DATASET_JSON) not in n]
            with file_errors(DATASET_JSON):
                add_labels(listing, listing.items, file.read_bytes(), DATASET_JSON)
        return listing

    def read(self, uri: str) -> bytes:
        """The file's bytes."""
        with file_errors(uri), open(inside(self.root, uri), "rb") as file:
            return file.read()

    def local_path(self, uri: str) -> Path | None:
        """The file."""
        return inside(self.root, uri)


def _leads_inside(root: str, relative: str) -> bool:
    try:
        inside(root, relative)
    except InputError:
        return False
    return True
