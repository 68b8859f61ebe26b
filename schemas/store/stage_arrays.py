"""Which arrays the stages of a model write, when the model is another one than before.

A corrected annotator may give other numbers: scores where there were landmarks, one attribute more.
Its stages' arrays are then dropped and laid out anew. Killed at any moment, the next call goes on:
the stage is uncommitted first, then gives the arrays up, and only what no stage writes is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.store.handle import members
from schemas.store.latent_store import LatentStore
from schemas.store.layout import STAGE_GROUPS, ArraySpec

RENDER = "@render"


def lay_out_stages(store: LatentStore, wanted: Mapping[str, Sequence[ArraySpec]]) -> None:
    """Make each stage write exactly these arrays; what it holds of others is dropped.

    wanted : stage -> its arrays, each called as the stage. Arrays of the same path, row shape and
        type stay, with their blocks (see `LatentStore.add_arrays` for their attributes). The other
        variant of a stage, with or without ``@render``, is of the same model: where it is not
        wanted and its arrays are unlike these, they are dropped too.

    Only the holder of the store's lock may do this.
    """
    store._writable()
    for stage, arrays in wanted.items():
        _drop_unlike(store, stage, arrays)
        other = stage.removesuffix(RENDER) if stage.endswith(RENDER) else stage + RENDER
        if other not in wanted:
            like = [ArraySpec(a.group, other, a.row_shape, a.dtype) for a in arrays]
            _drop_unlike(store, other, like)
    for stage, arrays in wanted.items():
        store.add_arrays(stage, arrays)


def _drop_unlike(store: LatentStore, stage: str, arrays: Sequence[ArraySpec]) -> None:
    wanted = {_shape_of(array) for array in arrays}
    if stage in store.stages():
        held = store.arrays(stage)
        kept = [path for path in held if _shape_of(store._spec_of(path)) in wanted]
        if kept != held:
            store._uncommit(stage)  # first: a crash after this line loses no truth
            store.array(f"commit/{stage}").attrs.put({"arrays": kept})
            store.refresh()
    owned = {path for other in store.stages() for path in store.arrays(other)}
    group = store._open()
    for name in sorted(set(members(group)) - set(STAGE_GROUPS)):
        path = f"{name}/{stage}"
        if path in group and path not in owned and _shape_of(store._spec_of(path)) not in wanted:
            del group[path]
            store.refresh()
            group = store._open()


def _shape_of(array: ArraySpec) -> tuple[str, tuple[int, ...], str]:
    return array.path, array.row_shape, array.dtype
