"""Colours of one face: what is drawn on the surface, before and behind it.

All functions work on flat float32 arrays of pixels. Edges are smooth steps as wide as a pixel, so
that pictures are anti-aliased without supersampling.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from generators.facerig import geometry

SKIN = np.array([[0.97, 0.82, 0.71], [0.86, 0.66, 0.52], [0.66, 0.46, 0.33], [0.40, 0.26, 0.19]])
HAIR = np.array([[0.10, 0.08, 0.08], [0.30, 0.19, 0.12], [0.55, 0.38, 0.20], [0.85, 0.70, 0.42]])
IRIS = np.array([[0.20, 0.12, 0.07], [0.35, 0.24, 0.10], [0.25, 0.42, 0.25], [0.25, 0.45, 0.68]])


def ramp(colours: np.ndarray, t: float) -> np.ndarray:
    """Piecewise linear colour at t in [0, 1], (3,)."""
    at = np.clip(t, 0, 1) * (len(colours) - 1)
    return np.array([np.interp(at, np.arange(len(colours)), colours[:, k]) for k in range(3)])


def palette(f: SimpleNamespace) -> None:
    """Add a face's colours to its description."""
    f.skin = ramp(SKIN, f.skin_tone) + (f.skin_warmth - 0.5) * np.array([0.06, 0.0, -0.05])
    hair = ramp(HAIR, f.hair_tone) + f.hair_red * np.array([0.12, 0.0, -0.02])
    grey = np.clip((f.age - 0.5) / 0.5, 0, 1) ** 1.5
    f.hair_colour = hair * (1 - 0.85 * grey) + 0.85 * grey * np.array([0.74, 0.73, 0.72])
    f.brow_colour = 0.75 * f.hair_colour + 0.25 * 0.35 * f.skin
    f.lips = f.skin * np.array([0.86, 0.55, 0.55]) + np.array([0.04, 0, 0.02])
    f.iris = ramp(IRIS, f.eye_hue)


FACIAL_COLOUR = (
    ("fear", 0.00, -0.10, 0.80, 0.80, (0.60, 0.95, 1.30)),  # pale all over, below the others
    ("anger", 0.00, 0.22, 0.30, 0.22, (1.08, 0.48, 0.42)),  # flushed forehead
    ("disgust", 0.24, -0.24, 0.14, 0.17, (0.72, 0.90, 0.46)),  # green beside the nose
    ("happiness", 0.45, -0.20, 0.16, 0.15, (1.06, 0.50, 0.48)),  # rosy cheeks
    ("sadness", 0.34, 0.08, 0.17, 0.15, (0.60, 0.42, 0.62)),  # reddened, shaded eyes
)
"""Expression, centre (|x|, y) and spread (x, y) in head units, colour relative to the skin's."""


def colouring(f: SimpleNamespace, paint: Callable, ax: np.ndarray, y: np.ndarray) -> None:
    """Blood flow under the skin, in proportion to each expression's intensity.

    Benitez-Quiroz, Srinivasan and Martinez, Facial color is an efficient mechanism to visually
    transmit emotion, PNAS 2018: patterns of colour tell emotions apart without any muscle.
    """
    for name, cx, cy, sx, sy, tint in FACIAL_COLOUR:
        zone = np.exp(-0.5 * (((ax - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))
        paint(0.60 * min(1.0, getattr(f, name)) * zone, np.minimum(f.skin * np.array(tint), 1))


def step(x: np.ndarray, soft: float) -> np.ndarray:
    """0 below, 1 above x = 0, a smooth step of half-width `soft`."""
    t = np.clip(x * (0.5 / soft) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def stroke(distance: np.ndarray, width: float, soft: float) -> np.ndarray:
    """1 on a line of half-width `width`, falling off over `soft`; thin lines keep their weight."""
    return step(width - np.abs(distance), max(soft, 1e-3)) * min(1.0, 2 * width / soft + 0.25)


class Canvas:
    """Pixels with colours, painted over one another.

    rgb : float32 (3, n)
    """

    def __init__(self, rgb: np.ndarray):
        self.rgb = rgb

    def paint(self, alpha: np.ndarray, colour) -> None:
        """Blend `colour`, (3,) or (3, n), in by alpha (n,) in [0, 1]."""
        colour = np.asarray(colour, dtype=np.float32)
        for k in range(3):
            self.rgb[k] += alpha * (colour[k] - self.rgb[k])


def face_texture(f: SimpleNamespace, x: np.ndarray, y: np.ndarray, soft: float):
    """Albedo (3, n) of the face at head-frame positions x, y, and a gloss mask (n,)."""
    n = len(x)
    canvas = Canvas(np.repeat(f.skin.astype(np.float32)[:, None], n, axis=1))
    paint = canvas.paint
    ax = np.abs(x)

    blush = np.exp(-0.5 * (((ax - 0.43) / 0.17) ** 2 + ((y + 0.22) / 0.15) ** 2))
    paint((0.16 + 0.18 * f.cheek) * blush, f.skin * np.array([1.0, 0.62, 0.58]))
    socket = np.exp(-0.5 * (((ax - f.eye_x) / 0.19) ** 2 + ((y - f.eye_y - 0.02) / 0.10) ** 2))
    paint(0.22 * socket, f.skin * 0.62)

    colouring(f, paint, ax, y)

    # lines of age and of the expression's muscles
    age = np.clip((f.age - 0.35) / 0.65, 0, 1)
    fold_t = np.clip((f.nose_tip - 0.02 - y) / 0.33, 0, 1)
    fold_x = f.nose_w + 0.05 + fold_t * (f.mouth_w - f.nose_w + 0.06)
    fold = np.exp(-0.5 * ((ax - fold_x) / 0.035) ** 2) * np.sin(np.pi * fold_t)
    paint(np.clip(0.45 * age + 0.40 * f.cheek + 0.25 * f.wrinkle, 0, 0.8) * fold, f.skin * 0.52)
    lift = np.clip(f.brow_inner, 0, 0.12) / 0.12
    rows = 0.5 + 0.5 * np.cos((y - f.brow_y - 0.16) * (2 * np.pi / 0.115))
    brow_zone = np.exp(-0.5 * ((x / 0.36) ** 2 + ((y - f.brow_y - 0.24) / 0.10) ** 2))
    paint(np.clip(0.55 * age + 0.30 * lift, 0, 0.7) * brow_zone * rows**2, f.skin * 0.55)
    bag = np.exp(-0.5 * (((ax - f.eye_x) / 0.12) ** 2 + ((y - f.eye_y + 0.115) / 0.025) ** 2))
    paint((0.12 + 0.40 * age) * bag, f.skin * 0.60)
    crow = np.exp(-0.5 * (((ax - f.eye_x - 0.25) / 0.05) ** 2 + ((y - f.eye_y + 0.02) / 0.06) ** 2))
    paint((0.35 * age + 0.25 * f.cheek) * crow, f.skin * 0.66)
    glabella = np.exp(-0.5 * (((ax - 0.07) / 0.025) ** 2 + ((y - f.brow_y - 0.01) / 0.075) ** 2))
    paint(min(0.75, 8.0 * f.brow_squeeze + 0.2 * f.wrinkle) * glabella, f.skin * 0.50)
    bridge = np.exp(-0.5 * ((ax / 0.11) ** 2 + ((y - f.eye_y - 0.01) / 0.05) ** 2))
    bridge = bridge * (0.5 + 0.5 * np.cos(y * (2 * np.pi / 0.075)))
    paint(0.65 * min(f.wrinkle, 1.0) * bridge, f.skin * 0.55)

    # beard and moustache, kept off the lips
    if f.beard > 0:
        line = -0.30 - 0.30 * np.exp(-((x / 0.30) ** 2)) + 0.30 * np.clip(ax - 0.45, 0, 1)
        cover = step(line - y, 0.16)
        lip_y = (y - f.nose_tip + 0.13) / 0.06
        cover = np.maximum(cover, np.exp(-0.5 * (lip_y**2 + (x / (0.75 * f.mouth_w)) ** 4)))
        paint(0.88 * f.beard * cover, f.hair_colour * 0.85)

    # nose: side shadow and nostrils
    wing = np.exp(-0.5 * (((ax - f.nose_w) / 0.035) ** 2 + ((y - f.nose_tip + 0.045) / 0.05) ** 2))
    paint(0.40 * wing, f.skin * 0.62)
    under = np.exp(-0.5 * ((x / (0.8 * f.nose_w)) ** 2 + ((y - f.nose_tip + 0.10) / 0.035) ** 2))
    paint(0.35 * under, f.skin * 0.55)
    hole = np.exp(
        -0.5 * (((ax - 0.5 * f.nose_w) / 0.034) ** 2 + ((y - f.nose_tip + 0.072) / 0.024) ** 2)
    )
    paint(0.75 * hole, f.skin * 0.25)

    # eyes
    right = x > 0
    u = (ax - f.eye_x) / f.eye_w
    lid_up, lid_down = geometry.lid_curves(f, u)
    opening = step(lid_up - y, soft) * step(y - lid_down, soft) * step(1.02 - np.abs(u), 0.12)
    paint(opening, np.array([0.95, 0.94, 0.93]))
    radius = np.hypot(ax - f.eye_x, y - f.eye_y - 0.01)
    paint(opening * step(0.083 - radius, soft), f.iris)
    paint(opening * step(0.040 - radius, soft), np.array([0.03, 0.03, 0.04]))
    glint = np.hypot(x - np.where(right, f.eye_x, -f.eye_x) - 0.025, y - f.eye_y - 0.045)
    paint(opening * step(0.022 - glint, soft) * 0.9, np.array([1.0, 1.0, 1.0]))
    ends = step(1.08 - np.abs(u), 0.10)
    paint(0.90 * stroke(y - lid_up - 0.010, 0.022, soft) * ends, f.skin * 0.18)
    paint(0.40 * stroke(y - lid_down, 0.012, soft) * ends, f.skin * 0.35)
    paint(0.30 * stroke(y - lid_up - 0.060, 0.012, soft) * ends, f.skin * 0.45)

    # brows
    inner, outer = geometry.brow_ends(f)
    u = 2 * (ax - inner) / (outer - inner) - 1
    thick = (0.042 + 0.008 * f.brow_thickness) * (1 - 0.30 * np.clip(u, -1, 1))
    body = step(thick - np.abs(y - geometry.brow_curve(f, u)), soft) * step(1.05 - np.abs(u), 0.15)
    paint(0.88 * body, f.brow_colour)

    # mouth
    u = x / f.mouth_w
    outer_up, inner_up, inner_down, outer_down = geometry.mouth_curves(f, u)
    ends = step(1.02 - np.abs(u), 0.08)
    paint(step(outer_up - y, soft) * step(y - outer_down, soft) * ends, f.lips)
    inside = step(inner_up - y, soft) * step(y - inner_down, soft) * ends
    inside = inside * np.clip((inner_up - inner_down) / 0.03, 0, 1)
    paint(inside, np.array([0.22, 0.05, 0.06]))
    bite = 0.030 + 0.045 * f.teeth
    paint(inside * f.teeth * step(y - (inner_up - bite), soft), np.array([0.94, 0.92, 0.88]))
    seam = f.mouth_y + f.corner * u * u
    closed = np.clip(1 - f.open / 0.06, 0, 1)
    paint((0.35 + 0.45 * closed) * stroke(y - seam, 0.016, soft) * ends * closed, f.lips * 0.35)
    corner = np.exp(-0.5 * (((ax - f.mouth_w) / 0.035) ** 2))
    corner = corner * np.exp(-0.5 * ((y - f.mouth_y - f.corner) / 0.035) ** 2)
    paint(0.45 * corner, f.skin * 0.45)
    crease = np.exp(-0.5 * ((x / 0.16) ** 2 + ((y - f.mouth_y + f.gap_down + 0.15) / 0.035) ** 2))
    paint((0.22 + 0.2 * f.press) * crease, f.skin * 0.58)

    gloss = 1 - 0.8 * np.clip(body, 0, 1)
    return canvas.rgb, gloss


def lit(albedo: np.ndarray, normal: np.ndarray, light: np.ndarray, strength: float, gloss):
    """Lambert with a soft wrap, an ambient term and a faint highlight, (3, n)."""
    facing = np.clip((normal * light[:, None]).sum(axis=0) * 0.75 + 0.25, 0, 1)
    shade = (1 - strength) + strength * 1.15 * facing
    half = light + np.array([0, 0, 1.0])
    half = half / np.linalg.norm(half)
    shine = np.clip((normal * half[:, None]).sum(axis=0), 0, 1) ** 14
    return albedo * shade + 0.13 * gloss * strength * shine
