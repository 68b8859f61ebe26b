"""Other projects' direction files, in the layouts that their own code writes."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from generators.peers.catalog import direction_formats
from generators.peers.directions import read_directions, write_directions
from generators.peers.models import read_rankonegan, read_styleclip
from generators.peers.tensorgan import EXPRESSIONS
from generators.unpickle import writer as pickle_writer
from generators.unpickle.plain import read_foreign
from schemas.directions.direction import apply, unit_direction
from schemas.errors import (
    CheckpointError,
    DirectionMismatchError,
    InputError,
    UnsafeCheckpointError,
    UsageError,
)

FP = "ab" * 32
DIM, LAYERS = 8, 5


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.fixture
def codes(rng):
    return rng.normal(size=(40, DIM))


@pytest.fixture
def w_plus(rng):
    return rng.normal(size=(40, LAYERS, DIM)).astype("f4")


def load(path, **options):
    return read_directions(path, generator_fp=FP, **options)


# ---- each layout, as its owner writes it ---------------------------------------------------------


def test_interfacegan_and_e4e_vectors(tmp_path, rng, codes, w_plus):
    vector = rng.normal(size=(1, DIM))
    np.save(tmp_path / "ffhq_age_w_boundary.npy", vector)
    torch.save(torch.tensor(vector, dtype=torch.float32), tmp_path / "smile.pt")
    (age,) = load(tmp_path / "ffhq_age_w_boundary.npy", space="w", codes=codes)
    assert (age.name, age.space, age.method) == ("ffhq_age_w", "w", "imported")
    np.testing.assert_allclose(age.vector, unit(vector[0]), rtol=1e-15)
    assert age.sd == pytest.approx(np.std(codes @ unit(vector[0])))
    assert age.provenance["claimed"] is True and age.provenance["generator_fp"] == FP
    (smile,) = load(tmp_path / "smile.pt", space="w_plus", codes=w_plus, name="happy")
    assert smile.name == "happy" and smile.layers is None
    np.testing.assert_allclose(
        smile.vector, np.tile(unit(vector[0]), (LAYERS, 1)) / np.sqrt(LAYERS), atol=1e-7
    )
    moved = apply(w_plus, smile, 1.0) - w_plus
    np.testing.assert_allclose(moved[:, 0], moved[:, 3], atol=1e-6)


def test_a_tensor_saved_from_a_gpu_is_read_without_one(tmp_path, rng, w_plus, monkeypatch):
    pose = rng.normal(size=(1, LAYERS, DIM)).astype("f4")

    def on_gpu(array, key):
        kind = pickle_writer.Name("torch", "FloatStorage")
        return pickle_writer.Persistent(("storage", kind, key, "cuda:0", array.size, None))

    monkeypatch.setattr(pickle_writer, "_storage", on_gpu)
    (tmp_path / "pose.pt").write_bytes(pickle_writer.torch_file(pose))
    (found,) = load(tmp_path / "pose.pt", space="w_plus", codes=w_plus)
    np.testing.assert_allclose(found.vector, unit(pose[0].astype("f8")), rtol=1e-12)


def test_idinvert_boundaries(tmp_path, rng, w_plus):
    boundary = rng.normal(size=(1, LAYERS, DIM)).astype("f4")
    for given, expected in [
        ([1, 2], [1, 2]),
        ("0-1,4", [0, 1, 4]),
        ("", None),
        (None, None),
        ([1, 0], [0, 1]),
        ([0, 1, 1, 0], [1, 2]),
        ([False, True, True], [1, 2]),
    ]:
        value = {"boundary": boundary, "meta_data": {"manipulate_layers": given, "n": np.int64(3)}}
        np.save(tmp_path / "age.npy", value, allow_pickle=True)  # as the peer writes it
        (found,) = load(tmp_path / "age.npy", space="w_plus", codes=w_plus)
        assert found.layers == expected
        kept = boundary[0].astype("f8").copy()
        kept[[n for n in range(LAYERS) if expected is not None and n not in expected]] = 0
        np.testing.assert_allclose(found.vector, unit(kept), rtol=1e-12)
        assert found.provenance["format"] == "idinvert"


def test_anycost_boundaries(tmp_path, rng, codes):
    names = ["00_5_o_Clock_Shadow", "31_Smiling"]
    vectors = {n: rng.normal(size=(1, DIM)).astype("f4") for n in names}
    torch.save({n: torch.tensor(v) for n, v in vectors.items()}, tmp_path / "boundaries_ffhq.pt")
    found = load(tmp_path / "boundaries_ffhq.pt", space="w", codes=codes)
    assert [d.name for d in found] == names
    np.testing.assert_allclose(found[1].vector, unit(vectors[names[1]][0].astype("f8")), atol=1e-15)


def test_ganspace_cache_and_direction(tmp_path, rng, w_plus):
    components = rng.normal(size=(3, 1, DIM)).astype("f4")
    np.savez_compressed(
        tmp_path / "cache.npz",
        act_comp=rng.normal(size=(3, 4, 2, 2)).astype("f4"),
        act_mean=np.zeros((1, 4, 2, 2), "f4"),
        act_stdev=np.ones(3, "f4"),
        lat_comp=components,
        lat_mean=np.zeros((1, DIM), "f4"),
        lat_stdev=np.array([3, 2, 1], "f4"),
        var_ratio=np.array([0.5, 0.2, 0.1], "f4"),
        random_stdevs=np.ones(3, "f4"),
    )
    found = load(tmp_path / "cache.npz", space="w")
    assert [(d.name, d.sd) for d in found] == [("pc000", 3.0), ("pc001", 2.0), ("pc002", 1.0)]
    assert found[1].quality["explained_variance_ratio"] == pytest.approx(0.2)
    direction = {
        "name": "Hair style!",
        "sigma_range": 2.0,
        "component_index": 7,
        "act_comp": components[0],
        "lat_comp": components[0],
        "latent_space": "W",
        "act_stdev": np.float32(1.5),
        "lat_stdev": np.float32(1.5),
        "model_name": "StyleGAN2",
        "output_class": "ffhq",
        "decomposition": {"name": "ipca", "components": 80, "samples": 10**6},
        "edit_type": "latent",
        "truncation": 0.7,
        "edit_start": 1,
        "edit_end": 3,
        "example_seed": 5,
    }
    for protocol in (2, 4, 5):
        (tmp_path / "d.pkl").write_bytes(pickle.dumps(direction, protocol))
        (one,) = load(tmp_path / "d.pkl", space="w_plus", row_shape=(LAYERS, DIM))
        assert (one.name, one.layers) == ("Hair_style", [1, 2])  # the end is exclusive
        assert one.quality["component_index"] == 7
        edit = apply(np.zeros((1, LAYERS, DIM)), one, 1.0)[0]
        expected = np.zeros((LAYERS, DIM))
        expected[1:3] = 1.5 * unit(components[0, 0].astype("f8"))
        np.testing.assert_allclose(edit, expected, atol=1e-12)
    assert load(tmp_path / "d.pkl", space="w_plus", codes=w_plus)[0].sd != one.sd


def test_ganspace_pca_of_e4e_keeps_the_peer_s_strength(tmp_path, rng, codes):
    comp = rng.normal(size=(3, 1, DIM)).astype("f4")
    std = np.array([3.0, 2.0, 1.0], "f4")
    contents = {"comp": comp, "mean": np.zeros((1, DIM), "f4"), "std": std}
    torch.save({k: torch.tensor(v) for k, v in contents.items()}, tmp_path / "ffhq_pca.pt")
    found = load(tmp_path / "ffhq_pca.pt", space="w")
    for i, d in enumerate(found):
        edit = apply(np.zeros((1, DIM)), d, 2.0)[0]
        np.testing.assert_allclose(edit, 2.0 * std[i] * comp[i, 0], rtol=1e-6)
        assert d.quality["norm"] == pytest.approx(np.linalg.norm(comp[i]), rel=1e-6)
    measured = load(tmp_path / "ffhq_pca.pt", space="w", codes=codes)
    assert measured[0].sd == pytest.approx(np.std(codes @ unit(comp[0, 0].astype("f8"))))


def test_sefa_factors_are_columns(tmp_path, rng, codes):
    eigenvectors = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0].astype("f4")
    torch.save({"ckpt": "x.pt", "eigvec": torch.tensor(eigenvectors)}, tmp_path / "factor.pt")
    found = load(tmp_path / "factor.pt", space="w", codes=codes)
    assert len(found) == DIM and found[2].name == "sefa002"
    np.testing.assert_allclose(found[2].vector, eigenvectors[:, 2], atol=1e-6)


def test_tensorgan_directions_are_folded(tmp_path, rng):
    vectors = [rng.normal(size=LAYERS * DIM).astype("f4") for _ in range(7)]
    tensors = [torch.tensor(v) for v in vectors]
    torch.save([tensors[:6], tensors[6]], tmp_path / "directions.pt")
    found = load(tmp_path / "directions.pt", space="w_plus", row_shape=(LAYERS, DIM))
    assert [d.name for d in found] == [*EXPRESSIONS, "rotation"]
    for d, v in zip(found, vectors, strict=True):
        edit = apply(np.zeros((1, LAYERS, DIM)), d, 1.0)[0]
        np.testing.assert_allclose(edit, v.reshape(LAYERS, DIM), rtol=1e-6)


def test_h_space_files(tmp_path, rng):
    steps, shape = 3, (4, 2, 2)
    vectors = rng.normal(size=(2, steps, *shape))
    vectors /= np.linalg.norm(vectors.reshape(2, -1), axis=1)[:, None, None, None, None]
    values = np.array([6.0, 3.0])
    parts = [
        torch.tensor(vectors),
        values,
        torch.tensor(vectors * values[:, None, None, None, None]),
    ]
    path = tmp_path / "pca-ddpm-samples-10-etas-1-n_pcs2.pt"
    torch.save({"all": parts, "indv": parts}, path)
    found = load(path, space="h")
    assert [d.name for d in found] == ["pc000", "pc001", "step-pc000", "step-pc001"]
    assert found[0].sd == pytest.approx(6.0 / 3.0)  # sqrt(n - 1) = 3
    np.testing.assert_allclose(found[1].vector, vectors[1], atol=1e-12)

    singular = np.array([[3.0, 2, 1], [1, 1, 1]])
    torch.save([torch.tensor(singular), torch.tensor(vectors)], tmp_path / "num=2.pt")
    found = load(tmp_path / "num=2.pt", space="h")
    edit = apply(np.zeros((1, steps, *shape)), found[0], 1.0)[0]
    np.testing.assert_allclose(edit, vectors[0] * singular[0][:, None, None, None], atol=1e-12)

    deltas = {str(t): torch.tensor(rng.normal(size=shape)) for t in (0, 999, 500)}
    torch.save(deltas, tmp_path / "smiling.pth")
    (found,) = load(tmp_path / "smiling.pth", space="h")
    assert found.quality["timesteps"] == [999, 500, 0]
    edit = apply(np.zeros((1, steps, *shape)), found, 1.0)[0]
    np.testing.assert_allclose(edit[1], deltas["500"].numpy(), atol=1e-12)


def test_rankonegan_and_styleclip_models(tmp_path, rng):
    class EasyDict(dict):
        """As the easydict package's: a dict with a state."""

    basis = rng.normal(size=(4, 3, 6)).astype("f4")
    state = EasyDict(B=torch.tensor(basis), alphas=torch.ones(5, 3), training_err=[1.0, 0.5])
    memory = io.BytesIO()
    EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"
    import sys
    import types

    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict
    sys.modules["easydict"] = module
    try:
        torch.save(state, memory)
    finally:
        del sys.modules["easydict"]
    (tmp_path / "r.pt").write_bytes(memory.getvalue())
    found = read_rankonegan(tmp_path / "r.pt")
    np.testing.assert_array_equal(found["rigid"], basis[0])
    np.testing.assert_array_equal(found["basis"], basis[1:])
    assert found["coefficients"].shape == (5, 3)

    fs3 = rng.normal(size=(7, 4))
    np.save(tmp_path / "fs3.npy", fs3)
    means, stds = [np.zeros(3), np.zeros(2), np.zeros(4)], [np.ones(3), np.ones(2), np.full(4, 2.0)]
    (tmp_path / "S_mean_std").write_bytes(pickle.dumps([means, stds]))
    relevance, deviations = read_styleclip(tmp_path / "fs3.npy", tmp_path / "S_mean_std")
    np.testing.assert_array_equal(relevance, fs3)
    assert [len(s) for s in deviations] == [3, 2, 4]


# ---- export --------------------------------------------------------------------------------------


def made(names, rng, shape=(DIM,), space="w", layers=None):
    return [
        unit_direction(n, space, rng.normal(size=shape), method="pca", sd=i + 1.5, layers=layers)
        for i, n in enumerate(names)
    ]


CASES = {
    "interfacegan": (["age"], (DIM,), "w"),
    "e4e": (["age"], (LAYERS, DIM), "w_plus"),
    "idinvert": (["age"], (LAYERS, DIM), "w_plus"),
    "anycost": (["a", "b"], (DIM,), "w"),
    "ganspace": (["pc000", "pc001"], (DIM,), "w"),
    "ganspace_direction": (["hair"], (DIM,), "w"),
    "ganspace_pca": (["pc000", "pc001"], (DIM,), "w"),
    "sefa": (["sefa000", "sefa001"], (DIM,), "w"),
    "tensorgan": ([*EXPRESSIONS, "rotation"], (LAYERS, DIM), "w_plus"),
    "asyrp": (["smiling"], (3, 4, 2, 2), "h"),
    "h_jacobian": (["jacobian000", "jacobian001"], (3, 4, 2, 2), "h"),
}


def test_every_format_that_is_written_is_read_back(tmp_path, rng):
    assert set(CASES) == {name for name, each in direction_formats().items() if each.writes}
    for file_format, (names, shape, space) in CASES.items():
        directions = made(names, rng, shape, space)
        path = tmp_path / f"{'smiling' if file_format == 'asyrp' else names[0]}.{file_format}"
        mean = np.zeros(DIM)
        write_directions(directions, path, file_format, mean=mean)
        first = path.read_bytes()
        write_directions(directions, path, file_format, mean=mean)
        assert path.read_bytes() == first
        codes = rng.normal(size=(20, *shape))
        found = load(path, space=space, codes=codes)
        assert [d.name for d in found] == names
        assert found[0].provenance["format"] in (file_format, "vector")
        for a, b in zip(directions, found, strict=True):
            np.testing.assert_allclose(a.vector, b.vector, atol=1e-6)
        if file_format not in ("interfacegan", "e4e", "idinvert", "anycost", "sefa"):
            again = load(path, space=space, row_shape=shape)
            assert [d.sd for d in again] == pytest.approx([d.sd for d in directions], rel=1e-5)


def test_written_torch_files_are_torch_s_own(tmp_path, rng):
    (d,) = made(["x"], rng, (LAYERS, DIM), "w_plus")
    write_directions([d], tmp_path / "x.pt", "e4e")
    tensor = torch.load(tmp_path / "x.pt", weights_only=True)
    assert tensor.shape == (1, LAYERS, DIM) and tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor[0].numpy(), d.vector, atol=1e-7)
    many = made(["pc0", "pc1"], rng)
    write_directions(many, tmp_path / "p.pt", "ganspace_pca", mean=np.arange(DIM))
    found = torch.load(tmp_path / "p.pt", weights_only=True)
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "comp": (2, 1, DIM), "mean": (1, DIM), "std": (2,),
    }  # fmt: skip
    write_directions([d], tmp_path / "x.npy", "idinvert")
    value = np.load(tmp_path / "x.npy", allow_pickle=True)[()]  # as the peer reads it
    assert value["boundary"].shape == (1, LAYERS, DIM)
    assert value["meta_data"]["manipulate_layers"] is None
    write_directions(made(["x"], rng), tmp_path / "x.pkl", "ganspace_direction")
    (wide,) = load(tmp_path / "x.pkl", space="w_plus", row_shape=(LAYERS, DIM))
    assert wide.layers is None and wide.vector.any(axis=1).all()
    (given,) = load(tmp_path / "x.pkl", space="w_plus", row_shape=(LAYERS, DIM), sd=0.25)
    assert given.sd == 0.25 and wide.sd == pytest.approx(1.5 * np.sqrt(LAYERS))
    value = pickle.loads((tmp_path / "x.pkl").read_bytes())  # noqa: S301 (written above)
    assert value["lat_comp"].shape == (1, DIM) and value["latent_space"] == "W"


def test_what_a_format_cannot_hold_is_refused(tmp_path, rng):
    flat, wide = made(["a", "b"], rng), made(["a"], rng, (LAYERS, DIM), "w_plus")
    path = tmp_path / "x"
    for directions, file_format, error, message in [
        (flat, "interfacegan", UsageError, "one direction, not 2"),
        (wide, "interfacegan", DirectionMismatchError, "have 1 axes; use 'e4e' or"),
        (wide, "sefa", DirectionMismatchError, "have 1 axes; use 'e4e'"),
        (wide, "ganspace_direction", DirectionMismatchError, "one w vector over a range"),
        (flat[:1], "idinvert", DirectionMismatchError, "have 2 axes; use 'interfacegan'"),
        (flat[:1], "asyrp", DirectionMismatchError, "have 4 axes; use 'interfacegan'"),
        (flat, "tensorgan", UsageError, "'anger'"),
        (flat, "ganspace", DirectionMismatchError, "needs one space"),
        (flat, "ganspace_pca", DirectionMismatchError, "needs one space"),
        (flat, "xml", UsageError, "'xml' cannot be written"),
        ([], "anycost", UsageError, "no directions"),
    ]:
        with pytest.raises(error, match=message):
            write_directions(directions, path, file_format)
    assert not path.exists()


# ---- files that are something else ---------------------------------------------------------------


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/latentflow-was-here",)


@pytest.mark.parametrize("kind", ["npy", "pkl", "pt"])
def test_files_that_run_code_are_refused(tmp_path, kind):
    path = tmp_path / f"evil.{kind}"
    if kind == "npy":
        np.save(path, {"boundary": Evil()}, allow_pickle=True)
    elif kind == "pkl":
        path.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"x": Evil()}, path)
    with pytest.raises(UnsafeCheckpointError, match="system"):
        load(path, space="w")


def test_files_of_other_kinds_are_refused(tmp_path, rng, codes):
    memory = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        memory, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)}
    )
    promises = memory.getvalue() + bytes(16)
    open_bracket = memory.getvalue().replace(b"{", b"(") + bytes(16)
    for contents in (
        b"", b"nonsense", b"PK\x03\x04broken", b"\x93NUMPY\x01\x00", promises, open_bracket,
    ):  # fmt: skip
        (tmp_path / "x.npy").write_bytes(contents)
        with pytest.raises(InputError):
            load(tmp_path / "x.npy", space="w", codes=codes)
    with pytest.raises(InputError, match="is no file"):
        load(tmp_path / "none.pt", space="w")
    np.save(tmp_path / "two.npy", np.ones((2, DIM)))
    with pytest.raises(DirectionMismatchError, match=r"\(2, 8\).*save each row by its name"):
        load(tmp_path / "two.npy", space="w", codes=codes)
    torch.save(OrderedDict(weight=torch.ones(3)), tmp_path / "state.pt")
    with pytest.raises(DirectionMismatchError, match="'state' of 'state.pt'"):
        load(tmp_path / "state.pt", space="w", codes=codes)
    np.save(tmp_path / "one.npy", np.ones((1, DIM)))
    with pytest.raises(UsageError, match="give codes"):
        load(tmp_path / "one.npy", space="w")
    with pytest.raises(DirectionMismatchError, match="another generator or space.*transfer"):
        load(tmp_path / "one.npy", space="w", codes=rng.normal(size=(5, DIM + 1)))
    (tmp_path / "object.pkl").write_bytes(pickle.dumps({"a": np.dtype("f4")}))
    with pytest.raises(CheckpointError, match=r"numpy\.dtype"):
        read_foreign(tmp_path / "object.pkl")
    assert {"vector", "sefa", "idinvert"} <= set(direction_formats())


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "u1", "?"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_pickles_of_every_protocol(tmp_path, rng, dtype, protocol):
    array = (rng.normal(size=(3, 4)) * 50).astype(dtype)
    value = {"c": array, "f": np.asfortranarray(array), "s": array[1, 2], "n": [array[:0], 5]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    found = read_foreign(tmp_path / "x.pkl")
    np.testing.assert_array_equal(found["c"], array)
    np.testing.assert_array_equal(found["f"], array)
    assert found["s"] == array[1, 2] and found["n"][0].shape == (0, 4)
