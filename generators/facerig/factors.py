"""What varies between faces: persons, expressions, views and nuisances, as one table of floats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
INTENSITIES = 4
VIEWS = {"left": -30.0, "right": 30.0}
ATTRIBUTES = (*EXPRESSIONS, "glasses", "beard", "long_hair", "old")

PERSON = (
    "face_width", "face_height", "jaw", "chin", "eye_gap", "eye_height", "eye_size", "eye_tilt",
    "brow_height", "brow_thickness", "brow_arch", "nose_length", "nose_width", "nose_relief",
    "mouth_width", "mouth_height", "lip", "skin_tone", "skin_warmth", "hair_tone", "hair_red",
    "hair_volume", "hair_line", "hair_fringe", "hair_length", "eye_hue", "age", "beard",
    "expressiveness",
)  # fmt: skip
SCENE = (
    "glasses", "yaw", "pitch", "roll", "light_x", "light_y", "light_strength",
    "back_r", "back_g", "back_b", "back_fade", "cloth_r", "cloth_g", "cloth_b",
    "shift_x", "shift_y", "zoom",
)  # fmt: skip
COLUMNS = (*PERSON, *EXPRESSIONS, *SCENE)


@dataclass(frozen=True, eq=False)
class Faces:
    """A table of faces.

    Attributes
    ----------
    values : float64 (n, len(COLUMNS)); shapes and colours are standardised or in [0, 1], expression
        columns are intensities in [0, 1], yaw, pitch and roll are degrees
    person : int64 (n,), the person's number
    """

    values: np.ndarray
    person: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows) -> "Faces":
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return Faces(self.values[rows], self.person[rows])

    def column(self, name: str) -> np.ndarray:
        """The column `name`, a view of shape (n,)."""
        return self.values[:, COLUMNS.index(name)]

    def attributes(self) -> np.ndarray:
        """Truth of ATTRIBUTES, float32 (n, 10): intensity of expressions, 0 or 1 for the others."""
        shown = [self.column(e) for e in EXPRESSIONS]
        shown += [
            self.column("glasses") > 0.5,
            self.column("beard") > 0.35,
            self.column("hair_length") > 0.5,
            self.column("age") > 0.6,
        ]
        return np.stack(shown, axis=1).astype(np.float32)


def _person(seed: int, person: int) -> np.ndarray:
    """Factors of one person, float64 (len(PERSON),), a pure function of (seed, person)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1, person]))
    value = dict(zip(PERSON, np.clip(rng.normal(size=len(PERSON)), -2, 2), strict=True))
    for name in ("skin_tone", "skin_warmth", "hair_tone", "hair_red", "hair_volume", "hair_fringe"):
        value[name] = rng.uniform()
    value["hair_line"] = rng.uniform(-1, 1)
    value["eye_hue"] = rng.uniform()
    value["age"] = rng.uniform()
    bearded = rng.uniform() < 0.3
    value["beard"] = rng.uniform(0.5, 1.0) if bearded else 0.0
    long_hair = rng.uniform() < (0.1 if bearded else 0.6)
    value["hair_length"] = rng.uniform(0.65, 1.0) if long_hair else rng.uniform(0.0, 0.35)
    value["expressiveness"] = rng.uniform(0.85, 1.15)
    return np.array([value[name] for name in PERSON])


def _scene(rng: np.random.Generator, yaw: float) -> np.ndarray:
    """Nuisances of one picture, float64 (len(SCENE),)."""
    back = rng.uniform(0.25, 0.85) + rng.uniform(-0.15, 0.15, size=3)
    cloth = rng.uniform(0.1, 0.8, size=3)
    return np.array([
        float(rng.uniform() < 0.3), yaw, rng.normal(0, 4), rng.normal(0, 3),
        rng.uniform(-0.8, 0.8), rng.uniform(0.0, 0.7), rng.uniform(0.45, 0.75),
        *back, rng.uniform(-0.25, 0.25), *cloth,
        rng.normal(0, 0.012), rng.normal(0, 0.012), rng.normal(0, 0.015),
    ])  # fmt: skip


def _assemble(seed, person, expression, intensity, yaw, picture_keys) -> Faces:
    people = {p: _person(seed, p) for p in np.unique(person)}
    rows = np.zeros((len(person), len(COLUMNS)))
    first = len(PERSON)
    for i, key in enumerate(picture_keys):
        rng = np.random.default_rng(np.random.SeedSequence([seed, 2, *key]))
        rows[i, :first] = people[person[i]]
        for e, k in zip(expression[i], intensity[i], strict=True):
            rows[i, first + e] = k
        rows[i, first + len(EXPRESSIONS) :] = _scene(rng, yaw(rng, i))
    return Faces(rows, np.asarray(person, dtype=np.int64))


def complete_design(people: Sequence[int], seed: int = 0) -> tuple[Faces, list[dict]]:
    """The complete person x expression x view design.

    25 expression cells (neutral and 6 expressions x 4 intensities) times two views at about -30 and
    +30 degrees of yaw. Returns the faces and one dict of design factors a row (person, expression,
    intensity, view), person slowest, view fastest.
    """
    cells = [(-1, 0)] + [(e, k) for e in range(len(EXPRESSIONS)) for k in range(1, INTENSITIES + 1)]
    design = [(p, e, k, v) for p in people for e, k in cells for v in VIEWS]
    faces = _assemble(
        seed,
        np.array([p for p, *_ in design]),
        [[e] if e >= 0 else [] for _, e, _, _ in design],
        [[k / INTENSITIES] if e >= 0 else [] for _, e, k, _ in design],
        lambda rng, i: VIEWS[design[i][3]] + rng.normal(0, 3),
        [(p, e + 1, k, list(VIEWS).index(v)) for p, e, k, v in design],
    )
    named = [
        {
            "person": f"p{p:04d}",
            "expression": EXPRESSIONS[e] if e >= 0 else "neutral",
            "intensity": k,
            "view": v,
        }
        for p, e, k, v in design
    ]
    return faces, named


def random_faces(n: int, seed: int = 0, people: int | None = None, first: int = 0) -> Faces:
    """`n` faces with every factor drawn freely; yaw is uniform in [-50, 50] degrees.

    15 % are neutral, 50 % show one expression, 35 % a blend of two whose intensities sum to at most
    1.5 (compound expressions: Du, Tao and Martinez 2014). Each picture is of its own person, or,
    with `people`, of one of that many. Row i depends on (seed, first + i) alone.
    """
    keys = [(first + i, 0) for i in range(n)]
    person, expression, intensity = [], [], []
    for key in keys:
        rng = np.random.default_rng(np.random.SeedSequence([seed, 3, *key]))
        person.append(int(rng.integers(people)) if people else key[0])
        shown = int(np.searchsorted([0.15, 0.65], rng.uniform()))
        expression.append(rng.permutation(len(EXPRESSIONS))[:shown])
        levels = rng.integers(1, INTENSITIES + 1, size=shown) / INTENSITIES
        intensity.append(levels * min(1.0, 1.5 / max(levels.sum(), 1.0)))
    return _assemble(
        seed,
        np.array(person),
        expression,
        intensity,
        lambda rng, i: rng.uniform(-50, 50),
        keys,
    )
