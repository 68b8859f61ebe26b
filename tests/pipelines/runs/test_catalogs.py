"""Every catalog: each module of its folder that is not set apart holds a plug-in."""

from __future__ import annotations

import pytest

from generators.annotators.kinds.catalog import KINDS
from generators.families.catalog import FAMILIES
from generators.peers.catalog import PEERS
from pipelines.analyses.catalog import ANALYSES
from schemas.catalog import Catalog
from schemas.sections.invert import SECTIONS
from transforms.inversion.catalog import METHODS

CATALOGS = (FAMILIES, METHODS, SECTIONS, ANALYSES, KINDS, PEERS)


@pytest.mark.parametrize("catalog", CATALOGS, ids=lambda catalog: catalog.package)
def test_each_module_of_a_folder_is_a_plugin_or_set_apart(catalog: Catalog[object]) -> None:
    plugins = {name: catalog.load(name) for name in catalog.own()}
    assert plugins
    assert {name: getattr(found, "name", name) for name, found in plugins.items()} == {
        name: name for name in plugins
    }
