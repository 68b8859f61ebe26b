"""Draw faces: orthographic ray marching onto the head's surface, painter's order around it."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from generators.facerig import geometry, shading
from generators.facerig.factors import Faces
from generators.facerig.shading import Canvas, step, stroke

HALF = 1.42
"""Half the picture's width in head units, at zoom 0."""


@dataclass(frozen=True, eq=False)
class Rendering:
    """Pictures and the truth about them.

    Attributes
    ----------
    images : uint8 (n, R, R, 3)
    landmarks3d : float32 (n, 3, 68), camera frame (x right, y up, z toward the viewer), in pixels
    landmarks : float32 (n, 68, 2), pixels, x right and y down, pixel centres at integer + 0.5
    visible : bool (n, 68), the surface there faces the viewer
    """

    images: np.ndarray
    landmarks3d: np.ndarray
    landmarks: np.ndarray
    visible: np.ndarray


def render(faces: Faces, resolution: int = 64, processes: int = 1) -> Rendering:
    """Draw `faces` at `resolution` pixels, in `processes` worker processes (1: in this one).

    A picture depends on its own row alone.
    """
    draw = partial(_draw, resolution=resolution)
    if processes == 1:
        parts = [draw(row) for row in faces.values]
    else:
        with ProcessPoolExecutor(processes) as pool:
            parts = list(pool.map(draw, faces.values, chunksize=64))
    if not parts:
        shape = (0, resolution, resolution, 3)
        return Rendering(
            np.zeros(shape, np.uint8),
            np.zeros((0, 3, 68), np.float32),
            np.zeros((0, 68, 2), np.float32),
            np.zeros((0, 68), bool),
        )
    return Rendering(*(np.stack(column) for column in zip(*parts, strict=True)))


def _draw(row: np.ndarray, resolution: int):
    f = geometry.describe(row)
    shading.palette(f)
    rot = geometry.rotation(f.yaw, f.pitch, f.roll)
    unit = resolution / (2 * HALF) * (1 + f.zoom)  # pixels a head unit
    centre = np.array([0.5 + f.shift_x, 0.5 + f.shift_y - 0.02]) * resolution

    grid = np.arange(resolution, dtype=np.float32) + np.float32(0.5)
    x = np.tile((grid - centre[0]) / unit, resolution).astype(np.float32)
    y = np.repeat((centre[1] - grid) / unit, resolution).astype(np.float32)
    soft = max(1.0 / unit, 0.035)

    light = np.array([f.light_x, 0.35 + f.light_y, 1.0])
    light = light / np.linalg.norm(light)
    back = np.array([f.back_r, f.back_g, f.back_b])
    fade = 1 + f.back_fade * y / HALF + 0.06 * (x * x + y * y) / HALF**2 * np.sign(f.back_fade)
    canvas = Canvas((back[:, None] * fade).astype(np.float32))
    _behind(f, canvas, x, y, rot, light, soft)
    _head(f, canvas, x, y, rot, light, soft)
    _hair(f, canvas, x, y, rot, light, soft)
    if f.hair_length <= 0.4:
        _ears(f, canvas, x, y, rot, soft, sides=(-np.sign(f.yaw),) if abs(f.yaw) > 12 else ())
    if f.glasses > 0.5:
        _glasses(f, canvas, x, y, rot, soft)
    image = np.clip(canvas.rgb, 0, 1) * 255
    image = np.rint(image).astype(np.uint8).T.reshape(resolution, resolution, 3)

    points = geometry.landmarks(f)
    facing = (rot @ geometry.normals(f, *points))[2] > 0.05
    camera = (rot @ points) * unit
    flat = np.stack([centre[0] + camera[0], centre[1] - camera[1]], axis=1)
    return image, camera.astype(np.float32), flat.astype(np.float32), facing


def _ray(rot: np.ndarray, x: np.ndarray, y: np.ndarray):
    """Start (at depth 0) and direction of the pixels' rays in the head frame."""
    start = rot.T[:, :2].astype(np.float32) @ np.stack([x, y])
    return start, rot.T[:, 2].astype(np.float32)


def _ellipsoid(start, way, centre, size):
    """Nearest hit of rays with an ellipsoid: depth t (n,) and the discriminant (n,), <0 outside."""
    s = (start - centre[:, None]) / size[:, None]
    w = (way / size)[:, None]
    a = (w * w).sum()
    b = (s * w).sum(axis=0)
    c = (s * s).sum(axis=0) - 1
    disc = (b * b - a * c) / a
    return (-b + np.sqrt(np.maximum(disc * a, 0))) / a, disc


def _behind(f, canvas, x, y, rot, light, soft) -> None:
    """Long hair behind the head, neck, shoulders, ears."""
    dark = f.hair_colour * 0.62
    turn = rot[0, 2]
    if f.hair_length > 0.4:
        width = 0.92 * f.a + 0.12 + 0.08 * f.hair_volume
        height = 0.55 + 0.65 * f.hair_length
        u = np.abs(x + 0.12 * turn) / width
        v = np.abs(y - 0.30 + height) / height
        curtain = step(1 - u**3 - v**4, 4 * soft)
        canvas.paint(curtain, dark[:, None] * (1.05 - 0.25 * u))
    cloth = np.array([f.cloth_r, f.cloth_g, f.cloth_b])
    neck = step(0.40 - np.abs(x), 1.5 * soft) * step(-0.55 - y, soft)
    canvas.paint(neck, f.skin * (0.52 + 0.10 * turn * np.sign(f.light_x)))
    shoulder = step(-1.05 - 0.30 * (x / 1.1) ** 2 - y, 1.5 * soft)
    canvas.paint(shoulder, cloth[:, None] * (1 + 0.12 * x * f.light_x))
    _ears(f, canvas, x, y, rot, soft, sides=(-1, 1))


def _ears(f, canvas, x, y, rot, soft, sides) -> None:
    for side in sides:
        ear = rot @ np.array([side * 0.99 * f.a, -0.04, -0.10])
        reach = ((x - ear[0]) / 0.12) ** 2 + ((y - ear[1]) / 0.20) ** 2
        colour = f.skin * np.array([0.88, 0.76, 0.72])
        canvas.paint(step(1 - reach, 6 * soft), colour[:, None] * (1 - 0.25 * np.exp(-4 * reach)))


def _head(f, canvas, x, y, rot, light, soft) -> None:
    start, way = _ray(rot, x, y)
    size = np.array([1.0, 1.0, geometry.DEPTH], dtype=np.float32)
    width = geometry.half_width(f, start[1])
    height = geometry.half_height(f, start[1])
    scaled = np.stack([start[0] / width, start[1] / height, start[2]])
    along = np.stack([way[0] / width, way[1] / height, np.full_like(x, way[2])])
    a = along[0] ** 2 + along[1] ** 2 + (along[2] / size[2]) ** 2
    b = scaled[0] * along[0] + scaled[1] * along[1] + scaled[2] * along[2] / size[2] ** 2
    c = scaled[0] ** 2 + scaled[1] ** 2 + (scaled[2] / size[2]) ** 2 - 1
    disc = (b * b - a * c) / a
    near = np.flatnonzero(disc > -0.35)
    t = ((-b + np.sqrt(np.maximum((disc + 0.25) * a, 0))) / a)[near]
    start, way32 = start[:, near], way.astype(np.float32)

    miss = np.full(len(near), np.inf, dtype=np.float32)
    for _ in range(6):  # march inward from an inflated surface; the relief's first hit is found
        px, py, pz = (start[k] + t * way32[k] for k in range(3))
        gap = _level(f, px, py, pz)
        np.minimum(miss, gap, out=miss)
        t = t - gap
    px, py, pz = (start[k] + t * way32[k] for k in range(3))
    normal = geometry.normals(f, px, py, pz)
    view = (rot @ normal.reshape(3, -1)).astype(np.float32)
    alpha = step(0.5 * soft - np.minimum(miss, _level(f, px, py, pz)), soft)

    albedo, gloss = shading.face_texture(f, px, py, soft)
    side = np.clip(pz / 0.12, 0, 1)
    albedo = albedo * side + (1 - side) * (f.skin.astype(np.float32) * 0.9)[:, None]
    colour = shading.lit(albedo, view, light, f.light_strength, gloss)
    under = 1 - 0.25 * step(-0.70 - py, 0.25)
    patch = Canvas(canvas.rgb[:, near])
    patch.paint(alpha, colour * under)
    canvas.rgb[:, near] = patch.rgb


def _level(f, x, y, z):
    """How far outside the surface points are, in head units, roughly (n,)."""
    q = (x / geometry.half_width(f, y)) ** 2 + (y / geometry.half_height(f, y)) ** 2
    q = np.sqrt(q + (z / geometry.DEPTH) ** 2)
    front = np.clip(z / 0.25, 0, 1)
    return (q - 1 - front * geometry.relief(f, x, y)) * 0.9


def _hair(f, canvas, x, y, rot, light, soft) -> None:
    """The hair's shell: an ellipsoid around the cranium, cut by a tilted plane."""
    volume = 0.05 + 0.10 * f.hair_volume
    size = np.array([f.a + volume, f.b_up + volume, geometry.DEPTH + volume], dtype=np.float32)
    centre = np.array([0, 0.02, -0.04], dtype=np.float32)
    start, way = _ray(rot, x, y)
    t, disc = _ellipsoid(start, way, centre, size)
    near = np.flatnonzero(disc > -0.2)
    t, disc = t[near], disc[near]
    p = start[:, near] + t * way[:, None]
    line = 0.50 + 0.05 * f.hair_line + 0.10 * np.clip(f.age - 0.6, 0, 1)
    fringe = 0.16 * (f.hair_fringe - 0.4) * np.cos(2.2 * p[0] + 1.5 * (f.hair_fringe - 0.5))
    side = np.clip(0.22 + 0.10 * f.hair_length - p[2], 0, 0.6)
    height = p[1] + fringe - line + 2.4 * side
    cover = step(height, 2.5 * soft) * step(disc, 2.5 * soft)
    normal = (p - centre[:, None]) / size[:, None] ** 2
    normal = normal / np.sqrt((normal * normal).sum(axis=0) + 1e-9)
    view = rot.astype(np.float32) @ normal
    strand = 1 + 0.07 * np.sin(9 * p[0] + 2.5 * p[1])
    colour = shading.lit(f.hair_colour[:, None] * strand, view, light, f.light_strength, 0.8)
    patch = Canvas(canvas.rgb[:, near])
    patch.paint(cover, colour)
    canvas.rgb[:, near] = patch.rgb


def _glasses(f, canvas, x, y, rot, soft) -> None:
    """Two dark rims with tinted lenses in a plane before the eyes, a bridge and the near arm."""
    start, way = _ray(rot, x, y)
    depth = geometry.surface_z(f, np.array([f.eye_x]), np.array([f.eye_y]))[0] + 0.10
    t = (depth - start[2]) / way[2]
    px, py = start[0] + t * way[0], start[1] + t * way[1]
    u, v = (np.abs(px) - f.eye_x) / 0.255, (py - f.eye_y + 0.01) / 0.205
    ring = ((np.abs(u) ** 2.6 + np.abs(v) ** 2.6) ** (1 / 2.6) - 1) * 0.22
    dark = np.array([0.09, 0.08, 0.10])
    canvas.paint(0.22 * step(-ring, soft), np.array([0.55, 0.62, 0.70]))
    canvas.paint(0.95 * stroke(ring, 0.030, soft), dark)
    bridge = stroke(py - f.eye_y - 0.05, 0.026, soft) * step(f.eye_x - 0.235 - np.abs(px), soft)
    canvas.paint(0.95 * bridge, dark)
    side = -1 if f.yaw > 0 else 1
    a = rot @ np.array([side * (f.eye_x + 0.25), f.eye_y + 0.04, depth])
    b = rot @ np.array([side * 1.0 * f.a, f.eye_y + 0.02, -0.10])
    along = (b - a)[:2]
    length = np.hypot(*along) + 1e-6
    s = ((x - a[0]) * along[0] + (y - a[1]) * along[1]) / length
    off = (x - a[0]) * along[1] / length - (y - a[1]) * along[0] / length
    arm = stroke(off, 0.024, soft) * step(s, soft) * step(length - s, soft)
    canvas.paint(0.9 * arm, dark)
