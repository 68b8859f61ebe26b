"""Direction files as people hand them on: shapes, containers, element types, names, bad values."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from generators.peers.directions import read_directions
from schemas.errors import CheckpointError, DirectionMismatchError, InputError

FP = "ab" * 32
L, DIM = 5, 8
RNG = np.random.default_rng(3)
WIDE = RNG.normal(size=(L, DIM)).astype("f4")
FLAT = RNG.normal(size=DIM).astype("f4")


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def load(path, space="w_plus", shape=(L, DIM), **options):
    return read_directions(path, space=space, generator_fp=FP, row_shape=shape, sd=1.0, **options)


SHAPES = {
    "wide": (WIDE, WIDE),
    "one wide": (WIDE[None], WIDE),
    "a row an axis": (WIDE[:, None], WIDE),
    "folded": (WIDE.reshape(-1), WIDE),
    "folded row": (WIDE.reshape(1, -1), WIDE),
    "flat": (FLAT, np.tile(FLAT, (L, 1))),
    "row": (FLAT[None], np.tile(FLAT, (L, 1))),
    "row of rows": (FLAT[None, None], np.tile(FLAT, (L, 1))),
}
WRITE = {
    "npy": lambda path, a: np.save(path, a),
    "npz": lambda path, a: np.savez_compressed(path, age=a),
    "pkl": lambda path, a: path.write_bytes(pickle.dumps({"age": a})),
    "pt": lambda path, a: torch.save(torch.tensor(a), path),
    "pth": lambda path, a: torch.save({"age": torch.nn.Parameter(torch.tensor(a))}, path),
    "safetensors": lambda path, a: save_file({"age": torch.tensor(a)}, path, {"format": "pt"}),
    "bin": lambda path, a: torch.save([{"directions": {"age": torch.tensor(a)}}], path),
}


@pytest.mark.parametrize("ending", WRITE)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_one_direction_is_read_from_every_container(tmp_path, shape, ending):
    given, expected = SHAPES[shape]
    path = tmp_path / f"age.{ending}"
    WRITE[ending](path, given)
    (found,) = load(path)
    assert found.name == "age" and found.layers is None
    np.testing.assert_allclose(found.vector, unit(expected), rtol=1e-6)
    assert ("broadcast_from" in found.provenance) == (expected is not WIDE)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", "<f8", ">f8", "<i4", ">i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_element_types_and_orders_of_npy(tmp_path, dtype, order):
    given = np.array(10 * WIDE, dtype, order=order)
    np.save(tmp_path / "age.npy", given)
    (found,) = load(tmp_path / "age.npy")
    np.testing.assert_allclose(found.vector, unit(given.astype("f8")), rtol=1e-12)
    assert found.vector.flags.c_contiguous and found.vector.dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ending", ["pt", "pth", "safetensors"])
def test_half_precision_is_read_as_the_numbers_that_it_holds(tmp_path, dtype, ending):
    tensor = torch.tensor(WIDE).to(dtype)
    if ending == "safetensors":
        save_file({"age": tensor}, tmp_path / "x.safetensors")
    else:
        torch.save(tensor.T if ending == "pt" else {"age": tensor.T}, tmp_path / f"x.{ending}")
        tensor = tensor.T.contiguous()
        with pytest.raises(DirectionMismatchError, match="save it transposed"):
            load(tmp_path / f"x.{ending}")
    (found,) = load(tmp_path / f"x.{ending}", shape=tuple(tensor.shape))
    np.testing.assert_allclose(found.vector, unit(tensor.double().numpy()), rtol=1e-12)


def test_a_vector_expanded_over_the_layers_is_read(tmp_path):
    torch.save({"direction": torch.tensor(FLAT).expand(L, DIM), "mean": torch.ones(L, DIM)},
               tmp_path / "age.pt")  # fmt: skip
    (found,) = load(tmp_path / "age.pt")
    assert found.name == "age" and "broadcast_from" not in found.provenance
    np.testing.assert_allclose(found.vector, unit(np.tile(FLAT, (L, 1))), rtol=1e-6)


def test_space_tells_apart_what_the_shape_does_not(tmp_path):
    np.save(tmp_path / "age.npy", FLAT[None])
    (in_w,) = load(tmp_path / "age.npy", "w", (DIM,))
    (spread,) = load(tmp_path / "age.npy", made_in="w")
    assert in_w.vector.shape == (DIM,) and spread.provenance["broadcast_from"] == "w"
    np.save(tmp_path / "wide.npy", WIDE)
    with pytest.raises(DirectionMismatchError, match="has layers.*claim space 'w_plus'"):
        load(tmp_path / "wide.npy", made_in="w")
    digits = {str(i): torch.tensor(WIDE[None]) for i in (0, 7)}  # no steps of a diffusion model
    torch.save(digits, tmp_path / "d.pt")
    assert [d.name for d in load(tmp_path / "d.pt")] == ["0", "7"]


@pytest.mark.parametrize("meta", ["1-2", [1, 2], np.array([1, 2]), [False, True, True, False]])
def test_higan_boundaries(tmp_path, meta):
    path = tmp_path / "indoor_lighting_boundary.npy"
    for value in (
        {"boundary": FLAT[None], "meta_data": {"manipulate_layers": meta, "note": "x"}},
        {"boundary": FLAT[None], "manipulate_layers": meta},
        {"weight": torch.tensor(FLAT[None]), "layers": meta, "bias": torch.tensor([0.5])},
    ):
        if "boundary" in value:
            np.save(path, value, allow_pickle=True)
        else:
            torch.save(value, path)
        (found,) = load(path)
        assert found.name == "indoor_lighting" and found.layers == [1, 2]
        expected = np.zeros((L, DIM))
        expected[1:3] = FLAT
        np.testing.assert_allclose(found.vector, unit(expected), rtol=1e-6)
    assert found.quality == {"bias": 0.5}
    with pytest.raises(DirectionMismatchError, match=r"layers \[1, 2\].*have 2.*transfer"):
        load(path, shape=(2, DIM))
    with pytest.raises(DirectionMismatchError, match="have none.*read space 'w_plus'"):
        load(path, "w", (DIM,))
    torch.save({"boundary": torch.tensor(FLAT), "layers": "middle"}, path)
    with pytest.raises(InputError, match="lighting_boundary.npy' names layers 'middle': give"):
        load(path)


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("smile/boundary.npy", "smile"),
        ("smile/Direction.npy", "smile"),
        ("pose/w_plus_direction.npy", "pose"),
        ("big smile/w_direction.npy", "big_smile"),
        ("directions/boundary.npy", "boundary"),
        ("smile/age_boundary.npy", "age"),
        ("x/Ünïcode näme (1).npy", "Unicode_name_1"),
        ("x/" + "a" * 240 + ".npy", "a" * 151 + "-9b304390"),
    ],
)
def test_a_file_whose_name_says_nothing_has_its_folder_s(tmp_path, file, name):
    (tmp_path / file).parent.mkdir()
    np.save(tmp_path / file, FLAT)
    (found,) = load(tmp_path / file)
    assert found.name == name
    np.savez(tmp_path / file, FLAT)  # numpy calls it arr_0
    (tmp_path / f"{file}.npz").rename(tmp_path / file)
    assert load(tmp_path / file)[0].name == found.name


def test_keys_become_names_that_differ_and_their_texts_are_kept(tmp_path):
    keys = ["pale skin", "pale_skin", "a/b\\c", "年齢", "", "x" * 300, "31_Smiling"]
    torch.save({key: torch.tensor(FLAT[None]) for key in keys}, tmp_path / "all.pt")
    found = load(tmp_path / "all.pt")
    names = [d.name for d in found]
    assert len(set(names)) == len(keys) and max(map(len, names)) <= 160
    assert names[1] == "pale_skin" and names[2] == "a_b_c" and names[6] == "31_Smiling"
    assert [d.provenance.get("name_in_file", d.name) for d in found[:4]] == keys[:4]
    assert names[0].startswith("pale_skin-") and names[4] == "all"
    assert [d.name for d in load(tmp_path / "all.pt", name="p")] == [f"p.{n}" for n in names]


# ---- what is refused -----------------------------------------------------------------------------


BAD = {
    "nan": (np.full((L, DIM), np.nan), "'age' of 'x.npz', shape .5, 8., holds NaN"),
    "inf": (np.full((L, DIM), np.inf), "'age' of 'x.npz', shape .5, 8., holds NaN or infinity"),
    "zero": (np.zeros((L, DIM)), "'age' of 'x.npz', shape .5, 8., is zero: make the file again"),
    "complex": (WIDE.astype("c8"), "'age': complex64 .5, 8.*real numbers of shape"),
    "text": (np.array(["a", "b"]), "'age': text .2,.*real numbers"),
    "flags": (WIDE > 0, "'age': bool .5, 8.*real numbers"),
    "objects": (np.array([None, 1.5], object), "'age': a list of 2, the first a NoneType"),
    "five axes": (WIDE[None, None, None], "'age': float32 .1, 1, 1, 5, 8.*none of the known"),
    "nothing": (np.zeros((0, DIM)), "'age' of 'x.npz', shape .0, 8., is zero"),
    "transposed": (WIDE.T, "'age'.*axes are in another order, save it transposed"),
    "more layers": (np.ones((7, DIM)), "'age'.*layers of another generator.*each row by its name"),
    "codes": (np.ones((9, L, DIM)), "'age'.*it holds 9; if they are directions, save each row"),
    "a kernel": (np.ones((3, 4, 2, 2)), "'age'.*something else than a direction"),
    "a number": (np.ones(1), "'age'.*something else than a direction"),
    "other dim": (np.ones((1, DIM + 1)), "'age'.*another generator or space.*transfer"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_direction_is_named_with_file_key_and_shape(tmp_path, case):
    value, message = BAD[case]
    np.savez(tmp_path / "x.npz", good=FLAT, age=value, allow_pickle=True)
    with pytest.raises((InputError, DirectionMismatchError), match=message):
        load(tmp_path / "x.npz")


def test_several_vectors_without_names_are_told_how_to_get_some(tmp_path):
    np.save(tmp_path / "w.npy", np.ones((3, DIM)))
    with pytest.raises(DirectionMismatchError, match=r"savez\('x.npz', smile=row\)"):
        load(tmp_path / "w.npy", "w", (DIM,))
    np.savez(tmp_path / "x.npz", smile=FLAT, age=FLAT)  # as the message says
    assert [d.name for d in load(tmp_path / "x.npz", "w", (DIM,))] == ["smile", "age"]
    np.savez(tmp_path / "x.npz", **{f"k{i}": FLAT for i in range(6)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("generators.peers.directions.MAX_DIRECTIONS", 5)
        with pytest.raises(InputError, match="6 vectors, more than 5"):
            load(tmp_path / "x.npz", "w", (DIM,))


def test_what_the_file_says_itself_is_compared_with_the_claim(tmp_path):
    facts = {"sd": 2.0, "layers": None, "method": "svm", "target": "smile", "space": "w_plus"}
    for fp, space, message in [
        ("cd" * 32, "w_plus", "made for generator 'cd.*one claimed is 'ab.*transfer"),
        (
            FP,
            "z",
            "made in space 'z'.*claimed is 'w_plus': import it into .* read space 'z'",
        ),
    ]:
        text = json.dumps({"smile": {**facts, "generator_fp": fp, "space": space}})
        np.savez(tmp_path / "d.npz", smile=WIDE, facts=np.array(text))
        save_file({"smile": torch.tensor(WIDE)}, tmp_path / "d.safetensors", {"facts": text})
        for file in ("d.npz", "d.safetensors"):
            with pytest.raises(DirectionMismatchError, match=message):
                load(tmp_path / file)
    hair = {"lat_comp": FLAT[None], "lat_stdev": 1.0, "edit_start": 0, "edit_end": 0}
    for space, fits in [("Z", False), ("W", True)]:
        (tmp_path / "hair.pkl").write_bytes(pickle.dumps({**hair, "latent_space": space}))
        if fits:
            assert len(load(tmp_path / "hair.pkl")) == 1
        else:
            with pytest.raises(DirectionMismatchError, match="made in space 'z'"):
                load(tmp_path / "hair.pkl")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b'{"smile": [0.5, 0.25]}', "is text: save the numbers in it with numpy.save"),
        (b"\x89PNG\r\n\x1a\n", "PNG image: give a .npy, .npz"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "is a web page"),
        (b"\x1f\x8b\x08\x00", "gzip: unpack it"),
        (b"0.5 0.25\n", "is text: save the numbers in it with numpy.save"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "none of the known layouts"),
    ],
)
def test_files_that_stand_for_others_are_named(tmp_path, contents, message):
    (tmp_path / "age.pt").write_bytes(contents)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "age.pt")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(InputError, match="a Zarr group: .*--as directions"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"lat_stdev": None},
        {"lat_stdev": "wide"},
        {"edit_start": "first"},
        {"edit_end": 1 << 40},
        {"edit_end": -1},
        {"edit_start": None},
    ],
)
def test_a_known_layout_with_values_of_other_kinds_is_refused(tmp_path, change):
    facts = {"lat_comp": FLAT[None], "lat_stdev": np.float32(1), "edit_start": 0, "edit_end": 3}
    value = {key: v for key, v in {**facts, **change}.items() if v is not None}
    (tmp_path / "hair.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(InputError, match="layout 'ganspace_direction', but cannot be read"):
        load(tmp_path / "hair.pkl")


def test_layers_without_end_are_refused(tmp_path):
    value = {"boundary": WIDE[None], "meta_data": {"manipulate_layers": "0-99999999999"}}
    np.save(tmp_path / "age.npy", value, allow_pickle=True)
    with pytest.raises(InputError, match="names layers '0-99999999999'"):
        load(tmp_path / "age.npy")


def test_an_array_without_end_is_damaged(tmp_path):
    path, length = tmp_path / "age.pkl", f"I{DIM}\n".encode()
    written = pickle.dumps({"age": FLAT}, protocol=0)
    assert written.count(length) == 1
    path.write_bytes(written.replace(length, b"Finf\n"))
    with pytest.raises(CheckpointError, match="age.pkl.*damaged.*infinity"):
        load(path)
