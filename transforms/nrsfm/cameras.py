"""Affine cameras: scale, rotation, angles, the metric upgrade and the gauge.

Axes: x right, y up, z toward the viewer; a camera M (2, 3) is orthographic, M = K [I | 0] R with an
upper triangular K (thesis eq. 4.10) and R = Rz Ry Rx (eq. 4.11), angles in radians. At zero angles
the shape faces the camera; a positive yaw turns it to the image's right.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from scipy.spatial.transform import Rotation

from schemas.errors import UsageError
from schemas.landmark_schemes import IBUG68, SCHEMES

IBUG68_NOSE = SCHEMES[IBUG68].nose


def rotation_of_angles(angles: np.ndarray) -> np.ndarray:
    """R = Rz Ry Rx (n, 3, 3) of angles (n, 3) = (pitch x, yaw y, roll z) in radians (eq. 4.11)."""
    angles = np.asarray(angles, np.float64)
    (cx, cy, cz), (sx, sy, sz) = (
        np.moveaxis(np.cos(angles), -1, 0),
        np.moveaxis(np.sin(angles), -1, 0),
    )
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def angles_of_rotation(rotations: np.ndarray) -> np.ndarray:
    """Angles (n, 3) = (pitch, yaw, roll) of rotations (n, 3, 3): the inverse, |yaw| <= pi / 2."""
    r = np.asarray(rotations, np.float64)
    yaw = np.arcsin(np.clip(-r[..., 2, 0], -1, 1))
    return np.stack(
        [np.arctan2(r[..., 2, 1], r[..., 2, 2]), yaw, np.arctan2(r[..., 1, 0], r[..., 0, 0])],
        axis=-1,
    )


def complete_rotation(rows: np.ndarray) -> np.ndarray:
    """Rotation (n, 3, 3) with the given orthonormal first two rows (n, 2, 3)."""
    return np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)


def decompose_cameras(cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K (n, 2, 2) upper triangular with positive diagonal and R (n, 3, 3) with M = K [I | 0] R.

    cameras : (n, 2, 3) of full rank. Thesis Algorithm 2: an RQ decomposition by the QR
    decomposition of the flipped, transposed camera, written out for two rows.
    """
    m = np.asarray(cameras, np.float64)
    if m.ndim != 3 or m.shape[1:] != (2, 3):
        raise UsageError(f"cameras have shape {m.shape!r}: give (n, 2, 3)")
    tiny = np.finfo(float).tiny
    k22 = np.linalg.norm(m[:, 1], axis=1)
    second = m[:, 1] / np.maximum(k22, tiny)[:, None]
    k12 = (m[:, 0] * second).sum(axis=1)
    rest = m[:, 0] - k12[:, None] * second
    k11 = np.linalg.norm(rest, axis=1)
    first = rest / np.maximum(k11, tiny)[:, None]
    k = np.zeros((len(m), 2, 2))
    k[:, 0, 0], k[:, 0, 1], k[:, 1, 1] = k11, k12, k22
    return k, complete_rotation(np.stack([first, second], axis=1))


def nearest_scaled_rotation(cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scale (n,), rotation (n, 3, 3)): s R[:2] nearest to each camera (n, 2, 3)."""
    m = np.asarray(cameras, np.float64)
    first, cross, second = (m[:, 0] ** 2).sum(1), (m[:, 0] * m[:, 1]).sum(1), (m[:, 1] ** 2).sum(1)
    # the root of the 2 x 2 matrix M M' = [first cross; cross second], by Cayley and Hamilton
    root = np.sqrt(np.maximum(first * second - cross * cross, 0.0))
    trace = np.sqrt(first + second + 2 * root)
    size = np.where(root > 0, root * trace, 1.0)
    rows = np.empty_like(m)
    rows[:, 0] = ((second + root)[:, None] * m[:, 0] - cross[:, None] * m[:, 1]) / size[:, None]
    rows[:, 1] = ((first + root)[:, None] * m[:, 1] - cross[:, None] * m[:, 0]) / size[:, None]
    scale = trace / 2
    flat = np.flatnonzero(~(root > 1e-6 * (first + second)))  # nearly of rank one
    if len(flat):
        u, s, vt = np.linalg.svd(m[flat], full_matrices=False)
        scale[flat], rows[flat] = s.mean(axis=1), u @ vt
    return scale, complete_rotation(rows)


def fit_views(gram: np.ndarray, cross: np.ndarray, rounds: int = 12) -> np.ndarray:
    """Rotations R (n, 3, 3) that minimise |X_f - (R_f)_{1:2} S_f|^2, from second moments.

    gram : (n, 3, 3), S_f S_f';  cross : (n, 2, 3), X_f S_f', of centred points (or weighted ones)
    rounds : damped Gauss-Newton steps on the rotations; a frame takes a step only if it is better

    Starts from the nearest rotation to the best affine camera, which alone is not the minimum.
    """
    affine = cross @ np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
    rotations = nearest_scaled_rotation(affine)[1]

    def cost(r: np.ndarray) -> np.ndarray:
        return np.asarray(((r[:, :2] @ gram - 2 * cross) * r[:, :2]).sum(axis=(1, 2)))

    best = cost(rotations)
    damping = np.full(len(gram), 1e-3)
    size = np.maximum(np.trace(gram, axis1=1, axis2=2), 1e-200)
    for _ in range(rounds):
        moment = rotations @ gram @ np.swapaxes(rotations, 1, 2)  # of the turned points p
        left = cross @ np.swapaxes(rotations, 1, 2) - moment[:, :2]  # residual times p'
        # a turn by w moves the image of p by (w_y p_z - w_z p_y, w_z p_x - w_x p_z)
        slope = np.stack([-left[:, 1, 2], left[:, 0, 2], left[:, 1, 0] - left[:, 0, 1]], axis=1)
        normal = np.zeros_like(gram)
        normal[:, 0, 0] = normal[:, 1, 1] = moment[:, 2, 2]
        normal[:, 2, 2] = moment[:, 0, 0] + moment[:, 1, 1]
        normal[:, :2, 2] = normal[:, 2, :2] = -moment[:, :2, 2]
        normal += (damping * size)[:, None, None] * np.eye(3)
        turn = Rotation.from_rotvec(np.linalg.solve(normal, slope[..., None])[..., 0])
        tried = turn.as_matrix() @ rotations
        found = cost(tried)
        better = found <= best
        rotations = np.where(better[:, None, None], tried, rotations)
        best = np.where(better, found, best)
        damping = np.where(better, 0.3 * damping, 4 * damping)
    return rotations


def mean_rotation(rotation_sum: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) nearest to a sum of rotations: their chordal mean."""
    u, _, vt = np.linalg.svd(rotation_sum)
    u[:, -1] *= np.sign(np.linalg.det(u @ vt)) or 1.0
    return u @ vt


def metric_conditions(cameras: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A, B), each (6, 6): c'Ac sums the failures to be metric of C = Q Q', c'Bc the square scales.

    Rows (i, j) of an affine camera become orthogonal and of equal length: i'C i = j'C j, i'C j = 0
    (Tomasi and Kanade 1992). c holds C's entries 11, 12, 13, 22, 23, 33.

    cameras : (n, 2, 3);  weights : (n,), of a frame's cameras
    """
    m = np.asarray(cameras, np.float64)
    i, j = m[:, 0], m[:, 1]

    def row(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                a[:, 0] * b[:, 0],
                a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0],
                a[:, 0] * b[:, 2] + a[:, 2] * b[:, 0],
                a[:, 1] * b[:, 1],
                a[:, 1] * b[:, 2] + a[:, 2] * b[:, 1],
                a[:, 2] * b[:, 2],
            ],
            axis=1,
        )

    failures = np.concatenate([row(i, i) - row(j, j), 2 * row(i, j)]) * np.tile(weights, 2)[:, None]
    scales = (row(i, i) + row(j, j)) * weights[:, None]
    return failures.T @ failures, scales.T @ scales


def metric_upgrade(failures: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, bool]:
    """(Q (3, 3), clipped): M Q is metric, from the sums of `metric_conditions`.

    C minimises c'Ac / c'Bc, the failures relative to the scales, which no affine map of the cameras
    changes; with |c| = 1 in the place of the scales, depth would come out several times too large
    where deformation exceeds what rotation shows of it. Where C is not positive definite (too
    little rotation, or strong deformation) its eigenvalues are clipped at 1e-4 of the largest, and
    `clipped` says so.
    """
    size = np.sqrt(np.diagonal(scales))
    size = np.where(size > 0, size, 1.0)
    scaled = scales / size / size[:, None] + 1e-12 * np.eye(6)  # six frames or fewer are singular
    c = scipy.linalg.eigh(failures / size / size[:, None], scaled)[1][:, 0] / size
    matrix = np.array([[c[0], c[1], c[2]], [c[1], c[3], c[4]], [c[2], c[4], c[5]]])
    if np.trace(matrix) < 0:
        matrix = -matrix
    values, vectors = np.linalg.eigh(matrix)
    floor = 1e-4 * values[-1]
    clipped = bool(values[0] < floor)
    return vectors * np.sqrt(np.maximum(values, floor)), clipped
