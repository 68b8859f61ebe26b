"""What every kind of dataset must do."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path, PurePosixPath

import pytest

from pipelines.sources.base import Source, read_checked
from pipelines.sources.open import open_source
from pipelines.stages.index import update_index
from schemas.errors import InputError
from schemas.index import DatasetIndex
from schemas.sections.dataset import KINDS, DatasetSpec
from schemas.store.reasons import Reason
from transforms.images.preprocess import Quarantine, decode

FOREIGN = ("", "nothing", "../{uri}", "/etc/passwd", "{uri}/../../x", "{uri}#77", "seed/x")


class SourceSuite:
    """Of a dataset of at least two rows, all of which can be read, and whose kind is in `KINDS`.

    images : its rows are images; else they are drawn, and no file holds them
    """

    images = True

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> DatasetSpec:
        """The section of the specification."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, dataset: DatasetSpec) -> Source:
        """The source, in a worker: override where it depends on the generator."""
        return self.travelled(open_source(dataset))

    @staticmethod
    def travelled(source: Source) -> Source:
        """As a worker gets it."""
        found: Source = pickle.loads(pickle.dumps(source))  # noqa: S301 (from here)
        return found

    def test_it_is_a_kind(self, dataset, source):
        assert dataset.kind in KINDS
        assert Path(source.root).is_absolute()

    def test_rows_are_listed_alike_every_time(self, source):
        first, again = source.list(), self.travelled(source).list()
        assert first.items == again.items and len(first.items) >= 2
        assert not first.damaged and not first.refused
        uris = [item.uri for item in first.items]
        assert len(set(uris)) == len(uris)
        for uri in uris:
            uri.encode()
            assert not PurePosixPath(uri).is_absolute()
        assert {name for item in first.items for name in item.factors} <= set(first.columns)

    def test_bytes_are_those_that_were_indexed(self, source):
        for item in source.list().items:
            if not self.images:
                assert item.image_id is not None and len(bytes.fromhex(item.image_id)) == 32
                with pytest.raises(InputError):
                    source.read(item.uri)
                continue
            data = source.read(item.uri)
            assert decode(data).ndim == 3 and item.image_id is None
            found = hashlib.sha256(data).hexdigest()
            assert read_checked(source, item.uri, found) == data
            with pytest.raises(Quarantine) as caught:
                read_checked(source, item.uri, "0" * 64)
            assert caught.value.reason == Reason.CHANGED

    def test_a_file_of_its_own_is_exactly_the_image(self, source):
        for item in source.list().items:
            path = source.local_path(item.uri)
            if path is not None:
                assert path.read_bytes() == source.read(item.uri) and item.container is None
            if item.container is not None:
                assert (Path(source.root) / item.container).is_file()

    def test_uris_of_elsewhere_give_nothing(self, source):
        uri = source.list().items[0].uri
        for form in FOREIGN:
            with pytest.raises((InputError, Quarantine)) as caught:
                source.read(form.format(uri=uri))
            assert not isinstance(caught.value, Quarantine) or caught.value.reason in (
                Reason.MISSING, Reason.IO_ERROR, Reason.UNSUPPORTED,
            )  # fmt: skip

    def test_an_index_that_is_current_stays_as_it_is(self, dataset, source):
        index, report = update_index(DatasetIndex.empty(), source, dataset)
        items = source.list().items
        assert index.uris == [item.uri for item in items] and report.added == len(items)
        assert not report.unreadable and set(source.list().columns) <= set(index.factors)
        again, report = update_index(index, self.travelled(source), dataset)
        assert again.equals(index) and report.unchanged == len(items)
        assert (report.added, report.removed, report.moved) == (0, 0, 0)
