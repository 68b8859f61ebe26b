"""Codes that other projects found: which image each is given to, and that none is given wrongly."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance.folder import adapter, index_of, make
from conformance.inversion import InversionSuite, Scene
from PIL import Image

from generators.peers.latents import open_latents, write_latents
from pipelines.engine.blocks import InProcess
from pipelines.stages.entries import entries_of
from pipelines.stages.invert import invert, plan_invert
from schemas.errors import InputError, SpecError, UsageError
from schemas.sections.invert import invert_section
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Reason
from transforms.images.preprocess import to_uint8
from transforms.inversion.catalog import method_named

NAMES = [f"{row:05}.png" for row in range(66)]


@cache
def codes_file() -> Path:
    """Codes by name, of the suite's images; beside it the same again, and a list."""
    folder = Path(tempfile.mkdtemp())
    codes = Scene(adapter(), "w_plus")._codes(range(66)).main.numpy()
    write_latents(codes, folder / "latents.npy", "restyle_latents", names=NAMES)
    write_latents(-codes, folder / "others.npy", "restyle_latents", names=NAMES)
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder / "latents.npy"


class TestImported(InversionSuite):
    method = "imported"
    settings = {"codes": str(codes_file())}
    others = {
        "codes": str(codes_file().with_name("others.npy")),
        "names": str(codes_file().with_name("names.txt")),
        "format": "restyle_latents",
        "order": "sorted",
    }


# ---- whose code is whose -------------------------------------------------------------------------

N = 10


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Ten images in two folders, two of one name, drawn from codes (10, L, dim) that are known."""
    root = tmp_path_factory.mktemp("drawn")
    setting = make(root, 1)
    folder = Path(setting.source.root)
    for path in folder.iterdir():
        path.unlink()
    scene = adapter()
    code = scene.sample("w_plus", range(N))
    names = [f"{'ab'[row % 2]}_{row}.png" for row in range(N)]
    with torch.no_grad():
        for name, image in zip(names, to_uint8(scene.draw(code).numpy()), strict=True):
            Image.fromarray(image).save(folder / name)
    object.__setattr__(setting, "index", index_of(folder))
    return setting, code.main.numpy(), names


def given(drawn, tmp_path, **keys):
    """The plan, and of every row the number of its code."""
    setting, _, _ = drawn
    identity = setting.identity(tmp_path, method="imported", **keys)
    found = entries_of(identity, setting.index)
    return {uri: int(e) for uri, e in zip(setting.index.uris, found.entries, strict=True)}, found


def run(setting, tmp_path, **keys):
    identity = setting.identity(tmp_path, method="imported", **keys)
    return invert(setting.index, setting.source, identity, engine=InProcess())


def test_every_layout_of_files_gives_each_image_its_own_code(drawn, tmp_path):
    setting, codes, names = drawn
    order = np.random.default_rng(0).permutation(N)
    codes, names = codes[order], [names[at] for at in order]
    stems = [name.removesuffix(".png") for name in names]
    files = tmp_path / "files"
    for form in ("pti_embeddings", "ganinverter_codes"):
        for stem, code in zip(stems, codes, strict=True):
            path = files / form / {"p": f"{stem}/0.pt", "g": f"{stem}.pt"}[form[0]]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_latents(code[None], path, form)
    elsewhere = [f"/elsewhere/aligned/{name}" for name in names]
    write_latents(codes, files / "restyle.npy", "restyle_latents", names=names)
    write_latents(codes, files / "projected.pt", "rosinality_projected", names=elsewhere)
    write_latents(codes, files / "latents.pt", "e4e_latents")
    (files / "image_list.txt").write_text("\n".join(elsewhere) + "\n")
    rows = [f"{row},{'0' * 64},{name}" for row, name in enumerate(names)]
    (files / "rows.csv").write_text("\n".join(["row,image_id,uri", *rows]))
    dse = files / "dse"
    dse.mkdir()
    for row, code in enumerate(codes):
        torch.save(torch.tensor(code[None]), dse / f"id{row}-i1500-w3.pt")
    table = [f"id{row}-i1500-w3.pt,{name}" for row, name in enumerate(names)]
    (files / "dse.csv").write_text("\n".join(["code,file", *reversed(table)]))
    for path, listed in (
        ("pti_embeddings", None), ("ganinverter_codes", None), ("restyle.npy", None),
        ("projected.pt", None), ("latents.pt", "image_list.txt"), ("latents.pt", "rows.csv"),
        ("dse", "dse.csv"),
    ):  # fmt: skip
        keys = {"codes": str(files / path), "names": listed and str(files / listed)}
        entries, found = given(drawn, tmp_path, **keys)
        read = open_latents(files / path, space="w_plus", row_shape=codes.shape[1:],
                            names=keys["names"])  # fmt: skip
        assert found.notes[-1] == "10 of 10 images have one of the 10 codes", path
        at = [entries[name] for name in names]
        np.testing.assert_array_equal(read[at], codes, path)
    result = run(setting, tmp_path, **keys)
    store = LatentStore.open(result.store_path)
    rows = [setting.index.uris.index(name) for name in names]
    np.testing.assert_array_equal(store.array("latents/w_plus")[:][rows], codes)
    assert store.array("quality/psnr")[:].min() > 45, "what is drawn is the image, but for 8 bits"


def test_images_without_code_are_quarantined_and_codes_without_image_are_told(drawn, tmp_path):
    setting, codes, names = drawn
    named = [*names[:7], "c_1.png", "c_2.png"]
    write_latents(codes[:9], tmp_path / "some.npy", "restyle_latents", names=named)
    result = run(setting, tmp_path, codes=str(tmp_path / "some.npy"))
    assert result.counts["reasons"] == {"no_code": 3} and result.counts["ok"] == 7
    assert result.notes[-3:] == [
        "7 of 10 images have one of the 9 codes",
        "3 images have no code, such as 'a_8.png': quarantined",
        "2 codes name no image, such as 'c_1.png'",
    ]
    store = LatentStore.open(result.store_path)
    lost = [setting.index.uris[row] for row in np.flatnonzero(store.reason("invert"))]
    assert sorted(lost) == sorted(names[7:])
    assert set(store.reason("invert")) == {0, Reason.NO_CODE}
    assert np.isnan(store.array("latents/w_plus")[store.n_rows - 1]).all()  # b_9.png


def test_a_code_that_is_not_finite_is_quarantined_alone(drawn, tmp_path):
    setting, codes, names = drawn
    codes = codes.copy()
    codes[2, 1, 3] = np.inf
    write_latents(codes, tmp_path / "inf.npy", "restyle_latents", names=names)
    result = run(setting, tmp_path, codes=str(tmp_path / "inf.npy"))
    assert result.counts["reasons"] == {"not_finite": 1} and result.counts["ok"] == 9


def test_order_alone_is_refused_and_the_sorted_one_is_checked(drawn, tmp_path):
    setting, codes, names = drawn
    by_name = np.argsort(names)

    def of(values, **keys):
        write_latents(values, tmp_path / "latents.pt", "e4e_latents")
        return run(setting, tmp_path, codes=str(tmp_path / "latents.pt"), **keys)

    told = "10 codes have no names.*never.*by order alone.*'invert.names'"
    with pytest.raises(UsageError, match=told):
        of(codes[by_name])
    good = of(codes[by_name], order="sorted")
    assert LatentStore.open(good.store_path).array("quality/psnr")[:].min() > 45
    section = invert_section({"method": "imported", "codes": "x.npy", "order": "sorted"})
    assert str(method_named("imported").cost(section)) == "1 pass through the generator"
    cut = of(codes[by_name][:8], order="sorted")  # e4e drops the last batch
    assert cut.counts["ok"] == 8 and cut.counts["reasons"] == {"no_code": 2}
    with pytest.raises(InputError, match="do not fit.*of 10 codes [01] draw.*'invert.names'"):
        of(np.roll(codes[by_name], 1, axis=0), order="sorted")
    with pytest.raises(InputError, match="11 codes, the dataset 10 images"):
        of(np.concatenate([codes, codes[:1]]), order="sorted")
    with pytest.raises(ValueError, match="batch_size' is 1"):
        invert_section({"method": "imported", "order": "sorted", "batch_size": 1})
    with pytest.raises(ValueError, match="both say whose code"):
        invert_section({"method": "imported", "order": "sorted", "names": "x"})


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a_0.png"] * 10, "10 codes for 1 images, such as 10 for 'a_0.png': keep one of each"),
        (["a_0.png", "b_1.png"], "has 2 names, .* has 10 codes"),
        (
            [f"c_{row}.png" for row in range(10)],
            "none of the images: .*'c_0.png', .*'a_0",
        ),
        ([f"a_{row}.jpg" for row in range(10)], "names differ in their endings only"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(drawn, tmp_path, names, told):
    write_latents(drawn[1], tmp_path / "latents.pt", "e4e_latents")
    (tmp_path / "list.txt").write_text("\n".join(names))
    keys = {"codes": str(tmp_path / "latents.pt"), "names": str(tmp_path / "list.txt")}
    with pytest.raises((InputError, SpecError), match=told):
        given(drawn, tmp_path, **keys)


def test_images_of_one_name_in_two_folders_get_no_code_by_it(tmp_path):
    from pipelines.sources.factor_keys import Images
    from pipelines.stages.entries import _match

    uris = ["a/1.png", "b/1.png", "a/2.png", "b/3.png"]
    images = Images(uris, uris, ["0" * 64] * 4, [True] * 4, "/root")
    assert _match(images, ["1", "2", "3"]).row_of == [None, None, 1, 2]
    assert _match(images, ["/x/a/1.png", "/x/2.png", "/y/3.png"]).row_of == [None, None, 1, 2]
    assert _match(images, ["a/1.png", "b/1.png"]).row_of == [0, 1, None, None]


class Thing:
    pass


def test_files_that_are_no_codes_are_refused(drawn, tmp_path):
    codes = drawn[1]
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "thing.npy", {"a.png": Thing()}, allow_pickle=True)
    np.save(tmp_path / "shapes.npy", {"a": codes[0], "b": codes[1][:-1]}, allow_pickle=True)
    write_latents(codes[:, :-1], tmp_path / "short.pt", "e4e_latents")
    (tmp_path / "two").mkdir()
    write_latents(codes[:2], tmp_path / "two" / "a_0.pt", "e4e_latents")
    for name, told in (
        ("empty", "holds no file of codes"),
        ("thing.npy", "object of '.*Thing'"),
        ("shapes.npy", "none of the known layouts|no 'restyle"),
        ("short.pt", r"shape \(10, \d, 8\), those of space 'w_plus' are"),
        ("none.pt", "is no file|cannot be read"),
    ):
        with pytest.raises(Exception, match=told) as caught:
            given(drawn, tmp_path, codes=str(tmp_path / name))
        assert type(caught.value).__module__ == "schemas.errors", name
    read = open_latents(tmp_path / "two", space="w_plus", row_shape=codes.shape[1:])
    with pytest.raises(InputError, match="holds 2 codes, and in a folder every image has a file"):
        read[[0]]
    with pytest.raises(UsageError, match="'invert.codes' is missing"):
        given(drawn, tmp_path)


def test_a_folder_of_codes_counts_by_its_bytes(drawn, tmp_path):
    folder = tmp_path / "codes"
    folder.mkdir()

    def fp():
        keys = {"method": "imported", "codes": str(folder)}
        identity = drawn[0].identity(tmp_path, **keys)
        return identity.store_fp, plan_invert(drawn[0].index, identity).fps

    for name, code in zip(drawn[2], drawn[1], strict=True):
        write_latents(code[None], folder / f"{name}.pt", "ganinverter_codes")
    first = fp()
    assert fp() == first
    write_latents(drawn[1][:1], folder / f"{drawn[2][1]}.pt", "ganinverter_codes")
    assert fp()[0] != first[0]
