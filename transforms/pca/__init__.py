"""Principal components, exact for any number of rows and features."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from transforms.pca.fit import GramSolver as GramSolver
    from transforms.pca.fit import RandomisedSolver as RandomisedSolver
    from transforms.pca.fit import fit_pca as fit_pca
    from transforms.pca.fit import solve_pca as solve_pca
    from transforms.pca.result import PCA as PCA

__getattr__ = face(
    __name__,
    {
        "fit": ["GramSolver", "RandomisedSolver", "fit_pca", "solve_pca"],
        "result": ["PCA"],
    },
)
