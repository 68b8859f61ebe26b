"""Landmarks as a function of the attribute vector q = (k, theta, alpha, t), and its derivatives.

R(q) = K(k) [I | 0] R(theta) [B_0 + sum_k alpha_k B_k] + t 1' (thesis eq. 4.14; Paper III, eq. 2),
with k = (k11, k12, k22) and theta = (pitch, yaw, roll) in radians: the columns of
`transforms.nrsfm.model.NRSfM.parameters`.
"""

from __future__ import annotations

import numpy as np

from schemas.errors import UsageError
from transforms.nrsfm.cameras import rotation_of_angles

CAMERA = ("k11", "k12", "k22", "pitch", "yaw", "roll")


def parameter_names(n_shapes: int) -> tuple[str, ...]:
    """Names of the 8 + K entries of q, in order."""
    return (*CAMERA, *(f"alpha{i}" for i in range(n_shapes)), "tx", "ty")


def _parts(q: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q = np.asarray(q, np.float64)
    if q.ndim != 2 or q.shape[1] != 8 + len(basis):
        raise UsageError(
            f"parameters have shape {q.shape!r}: give (n, {8 + len(basis)!r}), 8 and one for each "
            f"of the {len(basis)!r} basis shapes"
        )
    k = np.zeros((len(q), 2, 3))
    k[:, 0, 0], k[:, 0, 1], k[:, 1, 1] = q[:, 0], q[:, 1], q[:, 2]
    return k, rotation_of_angles(q[:, 3:6])


def landmarks_of(q: np.ndarray, rigid: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Points (n, 2, L), y up, of parameters q (n, 8 + K); rigid (3, L), basis (K, 3, L)."""
    k, rotation = _parts(q, basis)
    world = rigid + np.tensordot(q[:, 6:-2], basis, 1)
    return np.asarray(k @ rotation @ world + q[:, -2:, None])


def landmark_jacobian(q: np.ndarray, rigid: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """d R(q) / d q, float64 (n, 2 L, 8 + K): x of all points, then y; arguments as `landmarks_of`.

    A rotation turns by [w]_x R with w the axis of each angle: R e_x, Rz e_y and e_z.
    """
    k, rotation = _parts(q, basis)
    n, n_points = len(k), rigid.shape[1]
    turned = rotation @ (rigid + np.tensordot(q[:, 6:-2], basis, 1))
    out = np.zeros((n, 8 + len(basis), 2, n_points))
    out[:, 0, 0], out[:, 1, 0], out[:, 2, 1] = turned[:, 0], turned[:, 1], turned[:, 1]
    roll = np.asarray(q)[:, 5]
    zero, one = np.zeros(n), np.ones(n)
    axes = (
        rotation[:, :, 0],
        np.stack([-np.sin(roll), np.cos(roll), zero], axis=1),
        np.stack([zero, zero, one], axis=1),
    )
    for i, axis in enumerate(axes):
        out[:, 3 + i] = k @ np.cross(axis[:, :, None], turned, axis=1)
    if len(basis):
        out[:, 6:-2] = np.einsum("fij,kjl->fkil", k @ rotation, basis, optimize=True)
    out[:, -2, 0] = out[:, -1, 1] = 1.0
    return out.reshape(n, 8 + len(basis), 2 * n_points).swapaxes(1, 2)
