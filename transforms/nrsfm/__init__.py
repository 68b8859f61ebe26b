"""Non-rigid structure from motion with rank-one basis shapes."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from transforms.nrsfm.fit import NRSfMSolver as NRSfMSolver
    from transforms.nrsfm.fit import factorise as factorise
    from transforms.nrsfm.model import NRSfM as NRSfM

__getattr__ = face(
    __name__,
    {
        "fit": ["NRSfMSolver", "factorise"],
        "model": ["NRSfM"],
    },
)
