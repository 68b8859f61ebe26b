"""Which latent store a dataset's codes belong to: generator, method, seed and geometry.

Nothing here needs torch or Ray, nor writes anything but a store's layout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import generators
from generators.protocols import GRADIENTS, ModelFacts, Space
from pipelines.folder.qualities import GROUP, laid_out, qualities_of
from schemas.class_labels import class_numbers
from schemas.errors import SpecError, UsageError
from schemas.index import DatasetIndex
from schemas.sections.dataset import LABEL, SAMPLED, DatasetSpec
from schemas.sections.invert import (
    InvertSpec,
    methods_without_encoder,
    methods_without_gradients,
)
from schemas.sections.perceptual import PerceptualSpec
from schemas.spec import RunSpec
from schemas.spec_models import TRAINED
from schemas.store.latent_store import ArraySpec, LatentStore, block_rows_for
from schemas.store.layout import COMPANIONS, companion_array
from schemas.store.sibling import SiblingStore, apart
from schemas.suggest import suggestion
from transforms.images.preprocess import PREPROCESS_VERSION
from transforms.inversion.catalog import method_named
from transforms.inversion.method import InversionMethod, companion_shapes

if TYPE_CHECKING:
    from generators.perceptual.files import PerceptualFile

#: The stage that every store has: its codes.
INVERT = "invert"


def encoder_uri_of(generator: generators.Source, encoder_uri: str | None) -> str | None:
    """The encoder to use: the given one, or the one bundled with a bundled generator."""
    uri = str(generator) if isinstance(generator, str | Path) else generator.path
    if encoder_uri is not None or not uri.startswith("bundled:"):
        return encoder_uri
    return "bundled:" + (uri.removeprefix("bundled:") or "faces64")


@dataclass(frozen=True)
class StoreIdentity:
    """Everything that decides which store the codes belong to; see `identify`.

    spec : with the space of the codes, the generator's default where the specification names none
    encoder_uri : None where the method needs no encoder.
    dataset : of the rows, where they are sampled or may have class labels
    large : arrays that lie in a sibling of the store, see `schemas.store.sibling`
    encoder_assumed : what the encoder's file does not state, with what is to be told of each.
    """

    path: str
    name: str
    spec: InvertSpec
    generator_uri: generators.Source
    encoder_uri: str | None
    facts: ModelFacts
    method: dict[str, Any]
    seed: int
    block_rows: int
    arrays: tuple[ArraySpec, ...]
    dataset: DatasetSpec | None = None
    large: tuple[ArraySpec, ...] = ()
    encoder_assumed: Mapping[str, str] = field(default_factory=dict)

    @property
    def sampled(self) -> bool:
        """Whether the codes are drawn from the prior, and no image is inverted."""
        return bool(self.method["method"] == SAMPLED)

    @property
    def space(self) -> str:
        """Of the codes."""
        return str(self.method["space"])

    @property
    def attrs(self) -> dict[str, Any]:
        """What the store's fingerprint is made of, and the store notes in its attributes."""
        return {
            "name": self.name,
            "generator_fp": self.facts.fingerprint,
            "method": self.method,
            "seed": self.seed,
            "dtype": "float32",
            "block_rows": self.block_rows,
            "preprocess_version": PREPROCESS_VERSION,
        }

    @property
    def store_fp(self) -> str:
        """The store's fingerprint."""
        return LatentStore.store_fp_of(**self.attrs)

    def create(self, n_rows: int, *, afresh: bool = False) -> LatentStore:
        """Lay the store out, or open it (and let it grow to ``n_rows``), with its sibling.

        afresh : no block that is there will be kept. Else qualities that the store was laid out
            without are not added, see `as_stored`.
        """
        store = LatentStore.create(
            self.path,
            name=self.name,
            generator_fp=self.facts.fingerprint,
            method=self.method,
            seed=self.seed,
            n_rows=n_rows,
            arrays=self.arrays if afresh else self.as_stored().arrays,
            block_rows=self.block_rows,
            stages=[INVERT],
            preprocess_version=PREPROCESS_VERSION,
            notes={"generator_assumed": dict(self.facts.assumed)} if self.facts.assumed else None,
        )
        self.beside(store)
        return store

    def as_stored(self) -> StoreIdentity:
        """With those arrays that the store has or will be laid out with: one of a release that
        knew fewer qualities keeps its blocks, and what is added has no more either."""
        if not os.path.exists(os.path.join(self.path, "zarr.json")):
            return self
        store = LatentStore.open(self.path)
        if INVERT not in store.stages():
            return self
        return replace(self, arrays=laid_out(self.arrays, store.arrays(INVERT)))

    def beside(self, store: LatentStore) -> SiblingStore | None:
        """The store of the large arrays, laid out or opened to write; None without any."""
        if not self.large:
            return None
        return SiblingStore.beside(store, self.space, self.large, stage=INVERT)

    def waiting(self, store: LatentStore) -> set[int]:
        """Blocks of the store whose large arrays are missing or of other codes."""
        if not self.large:
            return set()
        found = SiblingStore.find(store, self.space, self.large, stage=INVERT)
        return set(range(store.n_blocks) if found is None else found.waiting(store))


def identify(
    store_root: str | os.PathLike[str],
    spec: InvertSpec,
    *,
    name: str,
    seed: int,
    generator_uri: generators.Source,
    encoder_uri: str | None = None,
    dataset: DatasetSpec | None = None,
) -> StoreIdentity:
    """The store that inverting with these settings writes to, without writing anything.

    dataset : of the rows, where they are sampled or have class labels

    Raises CheckpointError for unreadable models, UsageError when an encoder is needed and missing.
    """
    facts = generators.facts(generator_uri)
    spec = spec.into(facts.default_space)
    space = _space_of(spec, facts)
    method = method_named(spec.method)
    uri, encoder_fp, encoder_assumed = None, None, {}
    sampled = dataset is not None and dataset.sampled
    if not sampled:
        _check_method(spec, space, method, facts)
    if spec.needs.encoder and not sampled:
        from generators.encoders.catalog import spaces_of
        from generators.encoders.files import read_encoder

        uri = encoder_uri_of(generator_uri, encoder_uri)
        if uri is None:
            raise UsageError(
                f"'invert.method' is {spec.method!r}, which needs an encoder, and the generator "
                f"{generator_uri!r} brings none: name one under 'encoder', or use "
                f"{' or '.join(map(repr, methods_without_encoder()))}"
            )
        encoder = read_encoder(uri)
        check_trained(uri, encoder.metadata, facts)
        _check_encoder(uri, spaces_of(encoder), facts, space.name)
        encoder_fp, encoder_assumed = encoder.fingerprint, encoder.assumed
    perceptual = None if sampled else perceptual_of(spec.compared_by)
    measured = None if sampled else perceptual or perceptual_of(spec.measured_by)
    arrays = (
        ArraySpec("latents", space.name, space.shape, "float32"),
        *(_required(space) if sampled else _beside(spec, space, method, facts)),
        *(() if measured is None else [ArraySpec(GROUP, measured.architecture.key)]),
    )
    own, large = apart(arrays)
    if sampled and large:
        raise UsageError(
            f"codes of {space.name!r} are drawn with {[array.name for array in large]!r}, which is "
            "too large to be kept with rows drawn from the prior: set 'invert.space' to another"
        )
    block_rows = spec.block_rows or block_rows_for(max(array.row_bytes for array in own))
    description = method_of(
        spec, encoder_fp, None if perceptual is None else perceptual.fingerprint
    )
    if sampled and dataset is not None:
        description, seed = sampled_method(spec, dataset), 0
    identity = StoreIdentity(
        "",
        name,
        spec,
        generator_uri,
        uri,
        facts,
        description,
        seed,
        block_rows,
        tuple(own),
        dataset,
        tuple(large),
        encoder_assumed,
    )
    path = LatentStore.path_for(store_root, name, identity.store_fp)
    return replace(identity, path=path)


def _space_of(spec: InvertSpec, facts: ModelFacts) -> Space:
    """The space of the codes. Raises UsageError for one that this generator does not draw."""
    wanted = str(spec.space)
    drawn = [s.name for s in facts.spaces.values() if s.prior != "none" and not s.injected_into]
    if wanted not in drawn:
        raise UsageError(
            f"'invert.space' is {wanted!r}, which this {facts.family} generator does not draw: "
            f"{suggestion(wanted, drawn)}"
        )
    return facts.space(wanted)


def _check_method(
    spec: InvertSpec, space: Space, method: InversionMethod, facts: ModelFacts
) -> None:
    """Raise UsageError for a method that this generator gives no codes of the space to."""
    if spec.needs.gradients and GRADIENTS not in facts.capabilities:
        raise UsageError(
            f"'invert.method' is {spec.method!r}, which needs gradients of what the generator "
            "draws, and this one has none: use "
            f"{' or '.join(map(repr, methods_without_gradients()))}"
        )
    spaces = method.spaces(facts)
    if space.name not in spaces:
        raise UsageError(
            f"'invert.space' is {space.name!r}, and method {spec.method!r} gives codes of "
            f"{', '.join(map(repr, spaces))} for this generator: name one of these"
        )
    given = companion_shapes(method, spec, facts)
    missing = [name for name in space.required if name not in given]
    if missing:
        raise UsageError(
            f"codes of {space.name!r} cannot be drawn without {missing!r}, which method "
            f"{spec.method!r} does not give: use another method or another space"
        )


def _beside(
    spec: InvertSpec, space: Space, method: InversionMethod, facts: ModelFacts
) -> list[ArraySpec]:
    """The arrays beside the codes: what belongs to a code, and what is measured of it."""
    return [
        *_companions(space, companion_shapes(method, spec, facts)),
        *(ArraySpec(GROUP, quality, (), "float32") for quality in qualities_of(spec)),
    ]


def _required(space: Space) -> list[ArraySpec]:
    return _companions(space, {name: space.companions[name].sizes for name in space.required})


def _companions(space: Space, shapes: Mapping[str, tuple[int, ...]]) -> list[ArraySpec]:
    return [
        ArraySpec(COMPANIONS, companion_array(space.name, name), shape)
        for name, shape in shapes.items()
    ]


def check_trained(uri: str, metadata: Mapping[str, Any], facts: ModelFacts) -> None:
    """Raise UsageError for an encoder of `train-encoder` that says it is of another generator."""
    of = metadata.get("trained_for")
    if of not in (None, facts.fingerprint):
        raise UsageError(
            f"encoder {uri!r} was trained for the generator with fingerprint {of!r}, and this one "
            f"has {facts.fingerprint!r}: train one with 'latentflow train-encoder', or name another"
        )


def _check_encoder(
    uri: str, spaces: Mapping[str, tuple[int, ...]], facts: ModelFacts, wanted: str
) -> None:
    """Raise UsageError for an encoder into other spaces, or of codes of another shape."""
    if wanted not in spaces:
        raise UsageError(
            f"'invert.space' is {wanted!r}, and encoder {uri!r} gives codes of "
            f"{' and '.join(map(repr, spaces))}: set 'invert.space' to one of these, "
            f"or 'invert.method' to {' or '.join(map(repr, methods_without_encoder()))}"
        )
    for name in dict.fromkeys([wanted, *spaces]):
        shape = spaces[name]
        own = facts.spaces.get(name)
        if own is None or own.shape != shape:
            raise UsageError(
                f"encoder {uri!r} gives codes of shape {shape!r}, the generator has "
                f"{None if own is None else own.shape!r}: use an encoder that was trained for this "
                "generator"
            )


def identify_run(spec: RunSpec, folder: Path) -> StoreIdentity:
    """The store that a run of the specification writes to in `folder`; see `identify`.

    Raises UsageError, too, where the encoder is to be the trained one and none was trained.
    """
    encoder = spec.encoder_path
    if spec.encoder == TRAINED and not Path(str(encoder)).is_file():
        raise UsageError(
            f"'encoder' is {TRAINED!r}, and {encoder!r} does not exist: run 'latentflow "
            "train-encoder' with this specification first"
        )
    return identify(
        folder / "stores",
        spec.invert,
        name=spec.name,
        seed=spec.seed,
        generator_uri=spec.generator,
        encoder_uri=encoder,
        dataset=spec.dataset,
    )


def labels_of(
    dataset: DatasetSpec | None, index: DatasetIndex, facts: ModelFacts
) -> NDArray[np.int64] | None:
    """Class number of every row, int64 (n_rows,), see `schemas.class_labels`; None without labels.

    facts : of the generator. Raises SpecError for labels of a generator without classes.
    """
    if dataset is None or (dataset.sampled and not facts.classes):
        return None
    factor = LABEL if dataset.sampled else dataset.labels
    if not isinstance(factor, str):
        return None
    if not facts.classes:
        raise SpecError(
            f"'dataset.labels' is {factor!r}, but the generator has no classes: leave it out"
        )
    return class_numbers(index, factor, facts.classes)


def sampled_method(spec: InvertSpec, dataset: DatasetSpec) -> dict[str, Any]:
    """`method_of` for rows drawn from the prior. Seeds and classes are the rows' own."""
    return {
        "method": SAMPLED,
        "space": spec.space,
        "noise_mode": spec.noise_mode,
        "truncation": float(dataset.truncation),
    }


def perceptual_of(by: PerceptualSpec | None) -> PerceptualFile | None:
    """The network of a perceptual distance; None without one.

    Raises CheckpointError for one that cannot be read.
    """
    if by is None:
        return None
    from generators.perceptual.files import read_perceptual

    return read_perceptual(by.network, by.linear)


def method_of(
    spec: InvertSpec, encoder_fp: str | None, perceptual_fp: str | None = None
) -> dict[str, Any]:
    """Canonical description of the inversion, as it stands in the store.

    What does not change the codes is left out, so that changing it makes nothing stale; so is the
    encoder where none is used, and the perceptual network.
    """
    method = spec.identity()
    if spec.needs.encoder:
        method["encoder"] = encoder_fp
    if perceptual_fp is not None:
        method["perceptual"] = perceptual_fp
    return method
