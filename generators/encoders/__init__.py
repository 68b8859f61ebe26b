"""Models that guess the code of an image: one module or folder an architecture, and their files."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from generators.encoders.load import load_encoder as load_encoder
    from generators.encoders.load import save_encoder as save_encoder

__getattr__ = face(__name__, {"load": ["load_encoder", "save_encoder"]})
