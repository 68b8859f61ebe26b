"""The face rig: its geometry against independent formulas, its pictures against its own truth."""

import csv

import numpy as np
import pytest
from PIL import Image

from generators.facerig import EXPRESSIONS, complete_design, random_faces, render
from generators.facerig.factors import COLUMNS, Faces
from generators.facerig.geometry import describe, landmarks, relief, relief_gradient, rotation
from generators.facerig.shading import FACIAL_COLOUR, Canvas, colouring, palette
from pipelines.demo.faces import write_faces
from schemas.errors import UsageError


def neutral(**changes: float) -> Faces:
    """One face of average shape, looking at the viewer, with some columns set."""
    faces = random_faces(1, seed=5)
    values = faces.values.copy()
    for name in COLUMNS:
        if name in (*EXPRESSIONS, "yaw", "pitch", "roll", "glasses", "beard", "zoom"):
            values[0, COLUMNS.index(name)] = 0.0
        if name.startswith("shift"):
            values[0, COLUMNS.index(name)] = 0.0
    for name, value in changes.items():
        values[0, COLUMNS.index(name)] = value
    return Faces(values, faces.person)


def test_the_complete_design_is_complete():
    faces, named = complete_design(range(3), seed=1)
    assert len(faces) == len(named) == 3 * 25 * 2
    cells = {(r["person"], r["expression"], r["intensity"], r["view"]) for r in named}
    assert len(cells) == 150
    assert {r["intensity"] for r in named if r["expression"] == "neutral"} == {0}
    left = np.array([r["view"] == "left" for r in named])
    assert faces.column("yaw")[left].max() < -15 < 15 < faces.column("yaw")[~left].min()


def test_a_person_is_the_same_in_every_picture_and_other_seeds_give_other_persons():
    faces, named = complete_design(range(2), seed=1)
    first = faces.values[:50, : COLUMNS.index("anger")]
    assert np.array_equal(first, np.repeat(first[:1], 50, axis=0))
    other, _ = complete_design(range(2), seed=2)
    assert not np.allclose(first[0], other.values[0, : COLUMNS.index("anger")])


def test_a_picture_depends_on_its_own_row_alone():
    faces = random_faces(6, seed=3)
    whole = render(faces, 32)
    part = render(faces[np.array([4, 1])], 32)
    assert np.array_equal(part.images, whole.images[[4, 1]])
    assert np.array_equal(random_faces(2, seed=3, first=4).values, faces.values[4:])
    shared = render(faces, 32, processes=2)
    assert np.array_equal(shared.images, whole.images)


def test_landmarks_project_orthographically_with_y_down():
    faces = random_faces(4, seed=8)
    drawn = render(faces, 64)
    assert drawn.landmarks.shape == (4, 68, 2) and drawn.landmarks3d.shape == (4, 3, 68)
    offset_x = drawn.landmarks[:, :, 0] - drawn.landmarks3d[:, 0]
    offset_y = drawn.landmarks[:, :, 1] + drawn.landmarks3d[:, 1]
    assert np.ptp(offset_x, axis=1).max() < 1e-4 and np.ptp(offset_y, axis=1).max() < 1e-4
    assert drawn.visible.mean() > 0.6


def test_positive_yaw_turns_to_the_right_of_the_image_and_rotations_are_proper():
    front = rotation(25, 0, 0) @ [0, 0, 1]
    assert front[0] > 0.4
    r = rotation(20, -10, 5)
    assert np.allclose(r @ r.T, np.eye(3)) and np.isclose(np.linalg.det(r), 1)
    by_hand = rotation(0, 0, 5) @ rotation(20, 0, 0) @ rotation(0, -10, 0)
    assert np.allclose(r, by_hand)
    nose = render(neutral(yaw=25.0), 64).landmarks[0, 30, 0]
    assert nose > render(neutral(yaw=-25.0), 64).landmarks[0, 30, 0] + 5


def test_the_relief_gradient_is_that_of_the_relief():
    f = describe(random_faces(1, seed=2).values[0])
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.7, 0.7, 400), rng.uniform(-0.9, 0.7, 400)
    h = 1e-5
    gx, gy = relief_gradient(f, x, y)
    assert np.abs((relief(f, x + h, y) - relief(f, x - h, y)) / (2 * h) - gx).max() < 1e-3
    along_y = np.abs((relief(f, x, y + h) - relief(f, x, y - h)) / (2 * h) - gy)
    assert along_y[np.abs(x) > 0.4].max() < 5e-3  # beside the nose
    assert np.median(along_y) < 0.02


def test_landmarks_are_in_ibug_order_and_mirror_symmetric():
    points = landmarks(describe(neutral().values[0]))
    mirror = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1)]
    mirror += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, *range(54, 47, -1)]
    mirror += [*range(59, 54, -1), 64, 63, 62, 61, 60, 67, 66, 65]
    assert np.allclose(points[0], -points[0, mirror]) and np.allclose(points[1], points[1, mirror])
    assert points[1, 8] == points[1].min()  # the chin
    assert points[1, 19] > points[1, 37] > points[1, 33] > points[1, 51] > points[1, 57]
    assert points[2, 30] == points[2].max()  # the tip of the nose is nearest to the viewer


@pytest.mark.parametrize(
    ("expression", "point", "axis", "sign"),
    [
        ("happiness", 48, 1, 1),
        ("sadness", 48, 1, -1),
        ("surprise", 19, 1, 1),
        ("anger", 21, 1, -1),
        ("surprise", 57, 1, -1),
        ("disgust", 37, 1, -1),
        ("fear", 37, 1, 1),
    ],
)
def test_expressions_move_the_landmarks_that_they_should(expression, point, axis, sign):
    still = landmarks(describe(neutral().values[0]))
    moved = landmarks(describe(neutral(**{expression: 1.0}).values[0]))
    half = landmarks(describe(neutral(**{expression: 0.5}).values[0]))
    change, smaller = (m[axis, point] - still[axis, point] for m in (moved, half))
    assert sign * change > 0.02 and sign * smaller > 0.3 * sign * change


def test_factors_show_in_the_picture():
    plain = render(neutral(), 64).images[0].astype(float)
    for name, value in {"glasses": 1.0, "beard": 1.0, "surprise": 1.0, "skin_tone": 1.0}.items():
        assert np.abs(render(neutral(**{name: value}), 64).images[0] - plain).mean() > 0.15, name


@pytest.mark.parametrize("name, cx, cy, tint", [(c[0], *c[1:3], c[5]) for c in FACIAL_COLOUR])
def test_an_expression_colours_its_zone_in_proportion_to_its_intensity(name, cx, cy, tint):
    at = np.array([cx, 0.0], dtype=np.float32), np.array([cy, 9.0], dtype=np.float32)
    for intensity in (0.0, 0.5, 1.0):
        f = describe(neutral(**{name: intensity}).values[0])
        palette(f)
        canvas = Canvas(np.repeat(f.skin.astype(np.float32)[:, None], 2, axis=1))
        colouring(f, canvas.paint, *at)
        full = np.minimum(f.skin * np.array(tint), 1)
        wanted = f.skin + 0.6 * intensity * (full - f.skin)
        np.testing.assert_allclose(canvas.rgb[:, 0], wanted, atol=1e-6)
        np.testing.assert_allclose(canvas.rgb[:, 1], f.skin, atol=1e-4)  # far from the face


def test_attributes_are_intensities_and_what_is_shown():
    faces = random_faces(400, seed=4)
    truth = faces.attributes()
    assert truth.shape == (400, 10) and set(np.unique(truth[:, 6:])) == {0.0, 1.0}
    np.testing.assert_allclose(truth[:, 0], faces.column("anger"))
    assert truth.min() == 0 and truth.max() == 1 and 0.1 < truth[:, 6].mean() < 0.5


def test_random_faces_are_neutral_pure_or_a_blend_of_two():
    expressions = random_faces(400, seed=4).attributes()[:, :6]
    shown = (expressions > 0).sum(axis=1)
    share = np.bincount(shown, minlength=3) / 400
    assert len(share) == 3 and share == pytest.approx([0.15, 0.5, 0.35], abs=0.07)
    assert expressions.sum(axis=1).max() <= 1.5 + 1e-6
    yaw = random_faces(400, seed=4).column("yaw")
    assert -50 < yaw.min() < -45 and 45 < yaw.max() < 50
    assert set(np.unique(expressions[shown == 1])) == {0, 0.25, 0.5, 0.75, 1}


def test_written_faces_are_a_folder_a_table_and_the_truth(tmp_path):
    seen = []
    n = write_faces(
        tmp_path, people=1, resolution=32, processes=1, progress=lambda *a: seen.append(a)
    )
    assert n == 50 and seen[-1] == (50, 50)
    rows = list(csv.DictReader((tmp_path / "factors.csv").read_text().splitlines()))
    truth = np.load(tmp_path / "truth.npz", allow_pickle=False)
    assert [r["path"] for r in rows] == truth["path"].tolist()
    assert truth["landmarks3d"].shape == (50, 3, 68)
    faces, _ = complete_design(range(1), 0)
    again = render(faces[7], 32).images[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / rows[7]["path"])), again)
    assert float(rows[7]["yaw"]) == pytest.approx(faces.column("yaw")[7], abs=1e-4)


def test_random_faces_are_written_too(tmp_path):
    assert write_faces(tmp_path, n_random=5, resolution=32, processes=1) == 5
    rows = list(csv.DictReader((tmp_path / "factors.csv").read_text().splitlines()))
    assert {r["expression"] for r in rows} <= {"neutral", *EXPRESSIONS}
    assert len(list((tmp_path / "images").iterdir())) == 5


@pytest.mark.parametrize("counts", [(None, None), (2, 3), (0, None), (None, -1)])
def test_exactly_one_positive_count_is_needed(tmp_path, counts):
    with pytest.raises(UsageError, match="people"):
        write_faces(tmp_path, people=counts[0], n_random=counts[1])
    assert not list(tmp_path.iterdir())
