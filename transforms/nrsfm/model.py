"""What the landmark factorisations give: shape models, and the parameters of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.errors import UsageError
from transforms.accumulate.blocks import TRANSFORMS
from transforms.nrsfm.cameras import (
    IBUG68_NOSE,
    angles_of_rotation,
    decompose_cameras,
    mean_rotation,
)
from transforms.nrsfm.frames import CHUNK, Frames, fit_frames, seen_points
from transforms.nrsfm.passes import camera_frames, centre_points
from transforms.nrsfm.sequence import cosines, fit_moving, zoom_scales
from transforms.signs import fix_signs, signs_of

Flags = dict[str, bool | int | str]
MIRROR = np.diag([1.0, 1.0, -1.0])


@dataclass(frozen=True)
class ShapeModel:
    """What the factorisation learns from all frames; frames' parameters follow in closed form.

    rigid : float64 (3, L), B_0, centred, facing the camera, in the points' unit of length
    axes : float64 (K, 3), unit d_k;  modes : float64 (K, L), orthonormal b_k
    readout : float64 (L, 3), a centred frame's camera is X_f @ readout; (0, 3) after refinement
    ridge : float64 (K,), penalty on a coefficient: noise variance over coefficient variance
    noise : standard deviation of a coordinate that the model does not explain
    n_frames : complete frames used
    flags : metric_clipped (the metric upgrade was not definite), depth_sign, left_out
        (frames with too few points), converged, and after a refinement robust. depth_sign is
        'front': by the hint, 'assumed': by one that the number of points alone suggests, or
        'arbitrary': mirror images in depth fit equally well
    """

    kind = f"{TRANSFORMS}.nrsfm_model.ShapeModel"

    rigid: np.ndarray
    axes: np.ndarray
    modes: np.ndarray
    readout: np.ndarray
    ridge: np.ndarray
    noise: float
    n_frames: int
    flags: Flags

    @property
    def basis(self) -> np.ndarray:
        """B_k = d_k b_k', float64 (K, 3, L)."""
        return self.axes[:, :, None] * self.modes[:, None, :]

    def fit(self, points: np.ndarray) -> NRSfM:
        """Parameters of frames, seen or unseen (Paper III, eq. 11).

        points : (F, 2, L), y up; points that are not finite were not seen. Frames with fewer than
        4 seen points get NaN parameters. Complete frames of a model that was not refined follow
        in closed form, others by alternating least squares over cameras and coefficients.
        """
        points = checked_points(points, self.rigid)
        complete = np.isfinite(points).all(axis=(1, 2)) & bool(len(self.readout))
        cameras = np.full((len(points), 2, 3), np.nan)
        coefficients = np.full((len(points), len(self.axes)), np.nan)
        translation = np.full((len(points), 2), np.nan)
        at = np.flatnonzero(complete)
        for part in (at[i : i + CHUNK] for i in range(0, len(at), CHUNK)):
            centred, translation[part], _ = centre_points(points[part])
            camera = centred @ self.readout
            projected = camera @ self.axes.T
            y = centred @ self.modes.T
            size = (projected**2).sum(axis=1) + self.ridge
            size = np.maximum(size, np.finfo(float).tiny)
            cameras[part] = camera
            coefficients[part] = (projected * y).sum(axis=1) / size
        if not complete.all():
            noise = self.noise if self.flags.get("robust") else None
            found = fit_frames(points[~complete], self.rigid, self.basis, self.ridge, noise=noise)
            cameras[~complete] = found.cameras
            coefficients[~complete] = found.coefficients
            translation[~complete] = found.translation
        return NRSfM(self, cameras, coefficients, translation)


@dataclass(frozen=True)
class SequenceModel:
    """What the smooth factorisation of a sequence learns.

    rigid : float64 (3, L), the mean shape, centred, facing the camera, in the points' unit
    basis : float64 (K, 3, L), orthonormal, strongest first: principal shapes of the motion
    loadings : float64 (J - 1, K), a frame's coefficients are its cosines 1..J-1 times these
    ridge, noise, n_frames, flags : as in `ShapeModel`; n_frames counts the sequence's frames
    zoom : float64 (Z,), of the cameras, see `transforms.nrsfm.sequence.zoom_scales`
    """

    kind = f"{TRANSFORMS}.nrsfm_model.SequenceModel"

    rigid: np.ndarray
    basis: np.ndarray
    loadings: np.ndarray
    ridge: np.ndarray
    noise: float
    n_frames: int
    flags: Flags
    zoom: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def fit(self, points: np.ndarray, frames: np.ndarray | None = None) -> NRSfM:
        """Parameters of frames by their numbers in the sequence, or of unseen ones without.

        points : (F, 2, L), y up, NaN where not seen;  frames : int (F,) in 0..n_frames-1.
        Frames of the sequence have the shapes of their moment, which the cameras (two rows of a
        rotation, times the zoom) are fitted to; others' coefficients have the variance seen in the
        sequence, and where it zooms their cameras are affine.
        """
        points = checked_points(points, self.rigid)
        noise = self.noise if self.flags.get("robust") else None
        if frames is None:
            return self._result(
                fit_frames(
                    points,
                    self.rigid,
                    self.basis,
                    self.ridge,
                    metric=not self.zoom.size,
                    noise=noise,
                )
            )
        frames = np.asarray(frames)
        if frames.shape != (len(points),) or not ((frames >= 0) & (frames < self.n_frames)).all():
            raise UsageError(
                f"frames of shape {frames.shape!r} for {len(points)!r} frames of points of a "
                f"sequence of {self.n_frames!r}: give one number in 0..{self.n_frames - 1!r} each"
            )
        rows = cosines(frames, self.n_frames, len(self.loadings) + 1)
        coefficients = rows[:, 1:] @ self.loadings
        shapes = self.rigid + np.tensordot(coefficients, self.basis, 1)
        values, seen = seen_points(points)
        scales = zoom_scales(frames, self.n_frames, self.zoom)
        fit = fit_moving(values / scales[:, None, None], seen, shapes, noise)
        cameras, translation = (
            fit.cameras * scales[:, None, None],
            fit.translation * scales[:, None],
        )
        return NRSfM(self, cameras, coefficients, translation)

    def _result(self, fit: Frames) -> NRSfM:
        return NRSfM(self, fit.cameras, fit.coefficients, fit.translation)


def sequence_model(
    terms: np.ndarray,
    rotations: np.ndarray,
    n_frames: int,
    n_shapes: int,
    noise: float,
    front: tuple[int, ...] | None,
    flags: Flags,
    zoom: np.ndarray,
) -> SequenceModel:
    """Mean shape and principal shapes of terms (J, 3, L), in the gauge of the mean rotation.

    rotations : (3, 3), sum over frames;  n_shapes : at most J - 1 are kept
    """
    turn = mean_rotation(rotations)
    rigid = turn @ terms[0] / np.sqrt(n_frames)
    moving = turn @ terms[1:]
    if depth_flipped(rigid, front):
        rigid, moving = MIRROR @ rigid, MIRROR @ moving
    u, s, vt = np.linalg.svd(moving.reshape(len(moving), -1), full_matrices=False)
    k = min(n_shapes, int((s > 1e-12 * max(s.max(initial=0.0), 1e-300)).sum()))
    signs = signs_of(vt[:k])
    variance = np.maximum(s[:k] ** 2 / n_frames, np.finfo(float).tiny)
    return SequenceModel(
        rigid=rigid,
        basis=(vt[:k] * signs[:, None]).reshape(k, *rigid.shape),
        loadings=u[:, :k] * s[:k] * signs,
        ridge=np.maximum(noise**2, np.finfo(float).tiny) / variance,
        noise=noise,
        n_frames=n_frames,
        flags=flags,
        zoom=zoom,
    )


def checked_points(points: np.ndarray, rigid: np.ndarray) -> np.ndarray:
    """Points as float64 (F, 2, L) with as many landmarks as the model."""
    points = np.asarray(points, np.float64)
    if points.ndim != 3 or points.shape[1] != 2 or points.shape[2] != rigid.shape[1]:
        raise UsageError(
            f"points have shape {points.shape!r} but the model has {rigid.shape[1]!r} "
            "landmarks: give (frames, 2, landmarks)"
        )
    return points


def depth_flipped(rigid: np.ndarray, front: tuple[int, ...] | None) -> bool:
    """Whether depth must be mirrored for points `front` to be nearer than the others on average.

    Without a hint a fixed rule decides, so that equal data give equal results.
    """
    if front is None:
        return bool(fix_signs(rigid[2:])[0] @ rigid[2] < 0)
    nearer = np.zeros(rigid.shape[1], bool)
    nearer[list(front)] = True
    return bool(rigid[2, nearer].mean() < rigid[2, ~nearer].mean())


def default_front(n_points: int, front: Sequence[int] | None) -> tuple[int, ...] | None:
    """The hint as given; the nose for 68 (iBUG) points; else none."""
    if front is not None:
        return tuple(int(i) for i in front)
    return IBUG68_NOSE if n_points == 68 else None


def depth_sign(front: tuple[int, ...] | None, assumed: bool) -> str:
    """The flag that tells how the two mirror images in depth were told apart."""
    return "arbitrary" if front is None else "assumed" if assumed else "front"


@dataclass(frozen=True)
class NRSfM:
    """A shape model and the parameters of F frames; NaN cameras where too few points were seen.

    cameras : float64 (F, 2, 3);  coefficients : float64 (F, K);  translation : float64 (F, 2)
    """

    model: ShapeModel | SequenceModel
    cameras: np.ndarray
    coefficients: np.ndarray
    translation: np.ndarray

    @property
    def rigid(self) -> np.ndarray:
        """B_0, float64 (3, L)."""
        return self.model.rigid

    @property
    def basis(self) -> np.ndarray:
        """B_k, float64 (K, 3, L)."""
        return self.model.basis

    @property
    def flags(self) -> Flags:
        """See `ShapeModel`."""
        return self.model.flags

    @property
    def scale(self) -> np.ndarray:
        """Size of each frame relative to the rigid shape, sqrt(k11 k22), float64 (F,)."""
        k = decompose_cameras(self.cameras)[0]
        return np.sqrt(k[:, 0, 0] * k[:, 1, 1])

    @property
    def angles(self) -> np.ndarray:
        """(pitch, yaw, roll) in radians, float64 (F, 3); zero faces the camera."""
        return angles_of_rotation(decompose_cameras(self.cameras)[1])

    def world_shapes(self) -> np.ndarray:
        """B_0 + sum_k a_fk B_k before the cameras, float64 (F, 3, L)."""
        return np.asarray(self.rigid + np.tensordot(self.coefficients, self.basis, 1))

    def shapes(self) -> np.ndarray:
        """Shapes in the camera frame, centred, float64 (F, 3, L).

        x and y are the modelled points; z is scaled as the camera scales the image.
        """
        shapes = np.full((len(self.cameras), 3, self.rigid.shape[1]), np.nan)
        complete = np.isfinite(self.cameras).all(axis=(1, 2))
        shapes[complete] = camera_frames(self.cameras[complete]) @ self.world_shapes()[complete]
        return shapes

    def project(self) -> np.ndarray:
        """Modelled points (F, 2, L), translation included (Paper III, eq. 2)."""
        return self.cameras @ self.world_shapes() + self.translation[:, :, None]

    def parameters(self) -> tuple[list[str], np.ndarray]:
        """(names, float64 (F, 8 + K)): q = (k, theta, alpha, t) of Paper III, angles in radians."""
        k, rotations = decompose_cameras(self.cameras)
        names = ["k11", "k12", "k22", "pitch", "yaw", "roll"]
        names += [f"alpha{i}" for i in range(self.coefficients.shape[1])] + ["tx", "ty"]
        camera = np.stack([k[:, 0, 0], k[:, 0, 1], k[:, 1, 1]], axis=1)
        angles = angles_of_rotation(rotations)
        return names, np.hstack([camera, angles, self.coefficients, self.translation])
