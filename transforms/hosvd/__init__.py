"""Tensor models of cells: decompositions by mode, completion, variants."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from transforms.hosvd.model import HOSVD as HOSVD
    from transforms.hosvd.solve import HOSVDSolver as HOSVDSolver
    from transforms.hosvd.solve import hosvd as hosvd

__getattr__ = face(
    __name__,
    {
        "solve": ["HOSVDSolver", "hosvd"],
        "model": ["HOSVD"],
    },
)
