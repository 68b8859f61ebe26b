"""What every format of another project's files must do."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from generators.peers.base import Codes, DirectionFormat, LatentFormat
from generators.peers.catalog import claims, direction_formats, latent_formats
from generators.peers.directions import read_directions, write_directions
from generators.peers.latents import read_latents, write_latents
from generators.unpickle.plain import read_foreign
from schemas.directions import Direction, unit_direction
from schemas.errors import DirectionMismatchError, InputError, UsageError

FP = "ab" * 32
SHAPES = {"w": (8,), "w_plus": (5, 8), "h": (3, 4, 2, 2)}


def damaged(data: bytes) -> list[bytes]:
    """A file cut short in several places, and nothing."""
    return [data[: len(data) * part // 8] for part in (0, 1, 4, 7)]


class DirectionFormatSuite:
    """Of a format of directions that is written, too. It must be in the catalog, as an entry point
    of the group ``latentflow.peers`` or by a test's monkeypatch."""

    @pytest.fixture
    def form(self) -> DirectionFormat:
        """The format."""
        raise NotImplementedError

    @pytest.fixture
    def directions(self, form: DirectionFormat) -> list[Direction]:
        """Directions that the format can hold; override where it wants other names or shapes."""
        rng = np.random.default_rng(0)
        for names in (["a", "b"], ["a"]):
            for space, shape in SHAPES.items():
                found = [
                    unit_direction(n, space, rng.normal(size=shape), method="pca", sd=1.5)
                    for n in names
                ]
                try:
                    form.write(found, np.zeros(shape) if form.mean else None)
                except (DirectionMismatchError, UsageError):
                    continue
                return found
        raise NotImplementedError(f"{form.name!r} takes none of these: override 'directions'")

    @pytest.fixture
    def file(self, form: DirectionFormat, directions: list[Direction], tmp_path: Path) -> Path:
        """The directions, written."""
        path = tmp_path / f"{directions[0].name}{form.suffix or '.file'}"
        mean = np.zeros(directions[0].vector.shape) if form.mean else None
        write_directions(directions, path, form.name, mean=mean)
        return path

    def test_the_same_directions_give_the_same_bytes(self, form, directions, file):
        before = file.read_bytes()
        self._write(form, directions, file)
        assert file.read_bytes() == before

    def _write(self, form, directions, path):
        mean = np.zeros(directions[0].vector.shape) if form.mean else None
        write_directions(directions, path, form.name, mean=mean)

    def test_its_own_file_is_claimed_by_it_alone(self, form, directions, file):
        found, _ = claims(read_foreign(file), direction_formats(directions[0].space))
        assert [each.name for each in found] == ["vector" if form.evidence is None else form.name]

    @pytest.mark.parametrize("named", [False, True])
    def test_what_is_written_is_read(self, form, directions, file, named):
        found = read_directions(
            file,
            space=directions[0].space,
            generator_fp=FP,
            row_shape=directions[0].vector.shape,
            sd=1.0,
            file_format=form.name if named else None,
        )
        assert len(found) == len(directions)
        for ours, back in zip(directions, found, strict=True):
            np.testing.assert_allclose(back.vector, ours.vector, atol=1e-6)
            assert back.layers == ours.layers

    def test_a_damaged_file_is_refused(self, form, directions, file):
        for data in damaged(file.read_bytes()):
            file.write_bytes(data)
            with pytest.raises(InputError, match=file.name):
                read_directions(
                    file, space=directions[0].space, generator_fp=FP, file_format=form.name
                )

    def test_contents_of_other_kinds_are_not_its_own(self, form):
        for value in (None, "", 3, [], {}, [1], {"a": None}, np.array("x"), {1: [2]}, [[], []]):
            assert not form.recognise(value)


class LatentFormatSuite:
    """Of a format of codes that is written, too."""

    @pytest.fixture
    def form(self) -> LatentFormat:
        """The format."""
        raise NotImplementedError

    @pytest.fixture(params=[1, 4])
    def codes(self, form: LatentFormat, request: pytest.FixtureRequest) -> Codes:
        """Codes of one image, and of several."""
        space, n = list(form.files)[-1], 1 if form.one_a_file else request.param
        names = [f"{row}.png" for row in range(n)]
        values = np.random.default_rng(0).normal(size=(n, *SHAPES[space]))
        return Codes.of(values, space, names)

    @pytest.fixture
    def file(self, form: LatentFormat, codes: Codes, tmp_path: Path) -> Path:
        """The codes, written."""
        path = tmp_path / form.files[codes.space].format(stem="0")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_latents(codes, path, form.name)
        return path

    def test_its_own_file_is_claimed_by_it_alone(self, form, codes, file):
        found, _ = claims(read_foreign(file), latent_formats())
        assert [each.name for each in found] == ["array" if form.evidence is None else form.name]

    @pytest.mark.parametrize("named", [False, True])
    def test_what_is_written_is_read(self, form, codes, file, named):
        found = read_latents(
            file,
            space=codes.space,
            row_shape=codes.shape[1:],
            file_format=form.name if named else None,
        )
        np.testing.assert_array_equal(found.array(), codes.array())
        assert found.names is None or list(found.names) == codes.names

    def test_chunks_change_no_byte(self, form, codes, file):
        whole = codes.array()
        chunks = Codes(codes.space, codes.shape, lambda: iter(np.split(whole, 1)), codes.names)
        rows = Codes(codes.space, codes.shape, lambda: (row[None] for row in whole), codes.names)
        for given in (chunks, rows):
            memory = io.BytesIO()
            form.write(memory, given)
            assert memory.getvalue() == file.read_bytes()

    def test_a_damaged_file_is_refused(self, form, codes, file):
        for data in damaged(file.read_bytes()):
            file.write_bytes(data)
            with pytest.raises(InputError, match=file.name):
                read_latents(file, space=codes.space, file_format=form.name)
