"""The head's surface and its 68 landmarks, as functions of a face's factors.

Head frame: x right, y up, z toward the viewer, the origin in the middle of the head, half the
head's height about 1. The surface is the level set

    sqrt((x / a(y))^2 + (y / b)^2 + (z / c)^2) = 1 + relief(x, y)

with a(y) narrowing toward the jaw and `relief` (nose, sockets, lips, chin, cheeks) acting on the
front half. Features are laid out in (x, y) and take their depth from the surface.
"""

from types import SimpleNamespace

import numpy as np

from generators.facerig.factors import COLUMNS

DEPTH = 0.92
"""Half-depth c of the head, in head units."""


def describe(row: np.ndarray) -> SimpleNamespace:
    """Positions and sizes of a face's features, from one row of `Faces.values`.

    Expressions act as in the Facial Action Coding System: brows (AU 1, 2, 4), lids (5, 7), nose
    (9), cheeks (6), lip corners (12, 15), upper lip (10), stretch (20), jaw (26).
    """
    f = SimpleNamespace(**dict(zip(COLUMNS, row.tolist(), strict=True)))
    gain = f.expressiveness
    an, di, fe, ha, sa, su = (
        gain * e for e in (f.anger, f.disgust, f.fear, f.happiness, f.sadness, f.surprise)
    )
    f.brow_inner = 0.10 * fe + 0.13 * sa + 0.10 * su - 0.14 * an - 0.07 * di
    f.brow_outer = 0.05 * fe - 0.06 * sa + 0.12 * su + 0.04 * an - 0.03 * di
    f.brow_squeeze = 0.05 * an + 0.025 * sa + 0.02 * fe + 0.02 * di
    lid = 1 + 0.55 * fe + 0.50 * su - 0.28 * an - 0.45 * di - 0.38 * ha - 0.42 * sa
    f.lid = max(lid, 0.08)  # blends never turn a lid inside out
    f.wrinkle = 1.0 * di + 0.25 * an
    f.cheek = 1.0 * ha + 0.45 * di
    f.corner = 0.14 * ha - 0.15 * sa - 0.05 * an - 0.05 * di - 0.03 * fe
    f.stretch = 0.27 * ha + 0.24 * fe - 0.16 * an - 0.10 * sa - 0.36 * su - 0.05 * di
    f.upper_raise = 0.045 * di + 0.015 * ha
    f.open = 0.075 * ha + 0.085 * fe + 0.20 * su + 0.045 * di
    f.teeth = min(1.0, 1.6 * ha + 1.2 * fe + 1.2 * di)
    f.press = 0.5 * an
    f.jaw_drop = 0.16 * su + 0.07 * fe + 0.03 * ha

    f.a = 0.80 * (1 + 0.045 * f.face_width)
    f.b_up = 1.02
    f.b_down = 1.06 * (1 + 0.035 * f.face_height + 0.02 * f.chin) + f.jaw_drop
    f.taper = 0.30 - 0.05 * f.jaw

    f.eye_x = 0.335 * (1 + 0.045 * f.eye_gap)
    f.eye_y = 0.10 + 0.025 * f.eye_height
    f.eye_w = 0.165 * (1 + 0.07 * f.eye_size)
    f.eye_h = 0.080 * (1 + 0.10 * f.eye_size)
    f.brow_y = f.eye_y + 0.215 + 0.02 * f.brow_height
    f.nose_top = f.eye_y + 0.05
    f.nose_tip = -0.235 - 0.03 * f.nose_length
    f.nose_w = 0.125 * (1 + 0.10 * f.nose_width)
    f.nose_z = 0.215 * (1 + 0.14 * f.nose_relief)
    f.mouth_y = -0.535 - 0.02 * f.mouth_height + 0.2 * f.corner
    f.mouth_w = 0.285 * (1 + 0.07 * f.mouth_width) * (1 + f.stretch)
    f.lip_up = 0.052 * (1 + 0.18 * f.lip) * (1 - f.press)
    f.lip_down = 0.070 * (1 + 0.18 * f.lip) * (1 - f.press)
    f.gap_up = 0.35 * f.open + f.upper_raise
    f.gap_down = f.open
    return f


def half_width(f: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """a(y): the head's half-width before rounding, narrowing below the eyes."""
    low = np.clip(-y / 1.05, 0, 1.2)
    return f.a * (1 - f.taper * low * low)


def half_height(f: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """b: the half-height, other for the cranium than for the jaw."""
    return np.where(y > 0, np.float32(f.b_up), np.float32(f.b_down))


def relief(f: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Relief on the front of the head, like `x`; even in x."""
    ax = np.abs(x)
    value = np.zeros_like(x)
    for cx, cy, sx, sy, height in _bumps(f):
        u, v = (ax - cx) / sx, (y - cy) / sy
        value += height * np.exp(-0.5 * (u * u + v * v))
    u, profile, _, _ = _nose(f, x, y)
    value += f.nose_z * np.exp(-0.5 * u * u) * profile
    return value


def relief_gradient(f: SimpleNamespace, x: np.ndarray, y: np.ndarray):
    """Derivatives of `relief` along x and y: two arrays like `x`.

    The nose's narrowing toward its bridge is left out of the derivative along y.
    """
    ax, sign = np.abs(x), np.sign(x)
    gx, gy = np.zeros_like(x), np.zeros_like(x)
    for cx, cy, sx, sy, height in _bumps(f):
        u, v = (ax - cx) / sx, (y - cy) / sy
        g = height * np.exp(-0.5 * (u * u + v * v))
        gx -= g * u / sx * sign
        gy -= g * v / sy
    u, profile, slope, width = _nose(f, x, y)
    ridge = f.nose_z * np.exp(-0.5 * u * u)
    return gx - ridge * profile * u / width, gy + ridge * slope


def _bumps(f: SimpleNamespace):
    """Centre, spread and height of the Gaussian parts: sockets, brow, cheeks, lips, chin."""
    return (
        (f.eye_x, f.eye_y, 0.17, 0.11, -0.060),
        (0.0, f.brow_y, 0.42, 0.09, 0.030),
        (0.46, -0.17 + 0.05 * f.cheek, 0.17, 0.17, 0.030 + 0.035 * f.cheek),
        (0.0, f.mouth_y, 0.22, 0.13, 0.050),
        (0.0, -0.84 - 0.7 * f.jaw_drop, 0.20, 0.12, 0.050 + 0.02 * f.chin),
    )


def _nose(f: SimpleNamespace, x: np.ndarray, y: np.ndarray):
    """The ridge: its height grows from the bridge to the tip and falls off below it."""
    top = f.nose_top + 0.12
    span = top - f.nose_tip
    t = np.clip((top - y) / span, 0, 1)
    below = np.clip((y - (f.nose_tip - 0.10)) / 0.10, 0, 1)
    drop = below * below * (3 - 2 * below)
    root = np.sqrt(t)
    slope = np.where((t > 0) & (t < 1), -1.5 * root / span * drop, 0)
    slope = slope + np.where((below > 0) & (below < 1), 60 * below * (1 - below) * t * root, 0)
    width = f.nose_w * (0.45 + 0.45 * t)
    return x / width, t * root * drop, slope, width


def surface_z(f: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth of the front surface over (x, y); points outside the silhouette are put at its rim."""
    r = 1 + relief(f, x, y)
    inside = r * r - (x / half_width(f, y)) ** 2 - (y / half_height(f, y)) ** 2
    return DEPTH * np.sqrt(np.maximum(inside, 0.0))


def mouth_curves(f: SimpleNamespace, u: np.ndarray):
    """Outer upper, inner upper, inner lower and outer lower lip heights at u = x / mouth_w."""
    arch = np.clip(1 - u * u, 0, 1)
    centre = f.mouth_y + f.corner * u * u
    inner_up = centre + f.gap_up * arch
    inner_down = centre - f.gap_down * arch
    root = np.sqrt(arch)
    bow = 1 - 0.22 * np.exp(-((u / 0.16) ** 2))
    return (
        inner_up + f.lip_up * root * bow,
        inner_up,
        inner_down,
        inner_down - f.lip_down * root,
    )


def lid_curves(f: SimpleNamespace, u: np.ndarray):
    """Upper and lower lid heights at u in [-1, 1], from the inner to the outer corner."""
    arch = np.clip(1 - u * u, 0, 1)
    tilt = 0.012 * f.eye_tilt * u
    return (
        f.eye_y + tilt + f.eye_h * f.lid * arch,
        f.eye_y + tilt - 0.62 * f.eye_h * (0.45 + 0.55 * f.lid + 0.0 * u) * arch
        + 0.02 * f.cheek * arch,
    )  # fmt: skip


def brow_curve(f: SimpleNamespace, u: np.ndarray) -> np.ndarray:
    """Height of the brow at u in [-1, 1], from the inner to the outer end."""
    return (
        f.brow_y
        + f.brow_inner * 0.5 * (1 - u)
        + f.brow_outer * 0.5 * (1 + u)
        + (0.035 + 0.012 * f.brow_arch) * (1 - u * u)
        - 0.02 * (1 + u)
    )


def brow_ends(f: SimpleNamespace) -> tuple[float, float]:
    """Distance of the brow's inner and outer end from the face's mid-line."""
    return f.eye_x - 0.20 - f.brow_squeeze, f.eye_x + 0.20


def landmarks(f: SimpleNamespace) -> np.ndarray:
    """The 68 iBUG landmarks in the head frame, float64 (3, 68), image left to right as in iBUG."""
    points = np.zeros((68, 2))

    brow_u = np.linspace(-1, 1, 5)
    inner, outer = brow_ends(f)
    brow_x = inner + (outer - inner) * 0.5 * (brow_u + 1)
    brow_y = brow_curve(f, brow_u)
    points[22:27] = np.stack([brow_x, brow_y], axis=1)
    points[17:22] = np.stack([-brow_x, brow_y], axis=1)[::-1]

    points[27:31, 1] = np.linspace(f.nose_top, f.nose_tip, 4)
    points[31:36, 0] = np.array([-0.9, -0.45, 0, 0.45, 0.9]) * f.nose_w
    points[31:36, 1] = f.nose_tip - 0.075 + 0.02 * np.abs(np.array([-2, -1, 0, 1, 2]))
    points[31:36, 1] += 0.02 * f.wrinkle

    eye_u = np.array([-1.0, -0.36, 0.36, 1.0])
    up, down = lid_curves(f, eye_u)
    eye_x = f.eye_x + f.eye_w * eye_u
    right = [(eye_x[i], up[i]) for i in range(4)] + [(eye_x[i], down[i]) for i in (2, 1)]
    points[42:48] = right
    points[[39, 38, 37, 36, 41, 40]] = np.array(right) * [-1, 1]

    u = np.linspace(-1, 1, 7)
    outer_up, _, _, outer_down = mouth_curves(f, u)
    points[48:55] = np.stack([f.mouth_w * u, outer_up], axis=1)
    points[55:60] = np.stack([f.mouth_w * u, outer_down], axis=1)[5:0:-1]
    u = np.array([-0.86, -0.43, 0, 0.43, 0.86])
    _, inner_up, inner_down, _ = mouth_curves(f, u)
    points[60:65] = np.stack([f.mouth_w * u, inner_up], axis=1)
    points[65:68] = np.stack([f.mouth_w * u, inner_down], axis=1)[3:0:-1]
    points[[60, 64], 1] = 0.5 * (inner_up + inner_down)[[0, 4]]

    out = np.zeros((3, 68))
    out[:2] = points.T
    out[2] = surface_z(f, out[0], out[1])

    # the jaw line, from ear to ear over the chin
    s = np.linspace(-1, 1, 17)
    y = -0.955 * f.b_down + (0.955 * f.b_down + 0.06) * np.abs(s) ** 1.55
    ring = np.sqrt(np.maximum(1 - (y / half_height(f, y)) ** 2, 0))
    angle = np.deg2rad(86) * np.sign(s) * np.abs(s) ** 0.9
    out[0, :17] = half_width(f, y) * ring * np.sin(angle)
    out[1, :17] = y
    out[2, :17] = DEPTH * ring * np.cos(angle)
    return out


def normals(f: SimpleNamespace, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Outward unit normals of the surface at points on it, shape (3, ...)."""
    gx, gy = relief_gradient(f, x, y)
    front = np.clip(z / 0.25, 0, 1)
    a, b = half_width(f, y), half_height(f, y)
    q = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / DEPTH) ** 2) + 1e-6
    low = np.clip(-y / 1.05, 0, 1.2)
    da = np.where(y < 0, 2 * f.a * f.taper * low / 1.05, 0)
    n = np.stack([
        x / (a * a * q) - front * gx,
        y / (b * b * q) - (x * x) / (a**3 * q) * da - front * gy,
        z / (DEPTH * DEPTH * q),
    ])  # fmt: skip
    return n / np.sqrt((n * n).sum(axis=0) + 1e-12)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """R = Rz(roll) Ry(yaw) Rx(pitch), angles in degrees, (3, 3) (thesis eq. 4.11)."""
    y, p, r = np.deg2rad([yaw, pitch, roll])
    cy, sy, cp, sp, cr, sr = np.cos(y), np.sin(y), np.cos(p), np.sin(p), np.cos(r), np.sin(r)
    rz = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rx = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return rz @ ry @ rx
