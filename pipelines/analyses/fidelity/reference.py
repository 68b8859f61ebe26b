"""The features of another run, with which what this one draws is compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generators.annotators.kinds.catalog import role_of
from pipelines.analyses.measured import RENDER
from pipelines.folder.run_folder import RunFolder
from schemas.atomic import read_json
from schemas.errors import InputError, StoreError
from schemas.spec import load_spec
from schemas.store.latent_store import LatentStore

ROLE = "features"
"""Role of the annotators whose numbers are compared."""


@dataclass(frozen=True)
class Reference:
    """Features that another run holds.

    run : its name.  store : path.  array, stage : of its originals, or of what it draws where it
    has no originals
    annotator : fingerprint of the model that measured them
    """

    run: str
    store: str
    array: str
    stage: str
    annotator: str

    @classmethod
    def find(cls, path: str, name: str) -> Reference:
        """In the run of a specification or folder, of the annotator of that name, else of the only
        one of its role.

        Raises InputError or StoreError where there is no such run, or it holds no such features.
        """
        out = Path(path)
        if out.is_file():
            out = Path(load_spec(out).output_path)
        with RunFolder.open(out) as folder:
            store = folder.needed("store", folder.store)
            run = str(folder.run.get("name"))
        held = _features(store)
        if not held:
            raise StoreError(
                f"run {run!r} in {str(out)!r} holds no features: add the annotator {name!r} to its "
                "specification and run it again"
            )
        names = sorted({stage.removesuffix(RENDER) for stage in held})
        own = name if name in names else names[0]
        if name not in names and len(names) > 1:
            raise InputError(
                f"run {run!r} in {str(out)!r} holds features of {names!r}, none of them called "
                f"{name!r}: call the same network alike in both runs"
            )
        stage = own if own in held else own + RENDER
        noted = read_json(out / "lineage.json").get("annotate", {}).get(stage, {})
        if "annotator" not in noted:
            raise StoreError(
                f"run {run!r} in {str(out)!r} has not finished its stage 'annotate', so that it is "
                f"not known what measured {stage!r}: run it again"
            )
        return cls(run, store.path, held[stage], stage, str(noted["annotator"]))

    def inputs(self) -> dict[str, Any]:
        """What its features are, for the fingerprint of what is computed from them."""
        store = LatentStore.open(self.store)
        return {
            "store": store.store_fp,
            "stage": self.stage,
            "annotator": self.annotator,
            "blocks": store.contents(self.stage),
        }


def _features(store: LatentStore) -> dict[str, str]:
    """Stage -> array of features."""
    found = {}
    for stage in store.stages():
        for array in store.arrays(stage):
            kind = dict(store.array(array).attrs).get("kind")
            if array.startswith("annotations/") and kind and role_of(str(kind)) == ROLE:
                found[stage] = array
    return found
