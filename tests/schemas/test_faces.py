"""Public names: where they stand now, and where earlier releases had them."""

from __future__ import annotations

import importlib
import sys

import pytest

from schemas import faces

FACES = (
    "generators.annotators",
    "generators.encoders",
    "generators.peers",
    "schemas.store",
    "schemas.directions",
    "transforms.pca",
    "transforms.svm",
    "transforms.hosvd",
    "transforms.nrsfm",
)


def test_a_module_that_was_split_has_the_names_of_all_its_parts():
    from transforms.pca.beam import FitPCA

    sys.modules.pop("transforms.beam_fit", None)
    with pytest.warns(DeprecationWarning, match=r"transforms\.pca\.beam', 'transforms"):
        from transforms.beam_fit import FitMeanDifferences, FitNRSfM
        from transforms.beam_fit import FitPCA as Old
    assert Old is FitPCA and FitNRSfM and FitMeanDifferences


@pytest.mark.parametrize("old", faces.MOVED)
def test_modules_of_earlier_releases_are_found_and_say_where_they_are(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    new = faces.MOVED[old]
    with pytest.warns(DeprecationWarning, match=f"{old!r} is now {new!r}"):
        module = importlib.import_module(old)
    there = vars(importlib.import_module(new))
    public = {name for name in there if not name.startswith("_")}
    assert public and all(getattr(module, name) is there[name] for name in public)


@pytest.mark.parametrize("package", FACES)
def test_a_face_gives_what_it_announces(package: str) -> None:
    module = importlib.import_module(package)
    for name, home in module.__getattr__.homes.items():
        there = importlib.import_module(f"{package}.{home}")
        assert getattr(module, name) is getattr(there, name)


def test_a_face_refuses_what_it_does_not_have() -> None:
    with pytest.raises(ImportError, match="no_such_name"):
        from transforms.pca import no_such_name  # noqa: F401
