"""Models that guess the code of an image, and their files."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from generators.encoders.w_plus import load_encoder as load_encoder
    from generators.encoders.w_plus import save_encoder as save_encoder

__getattr__ = face(__name__, {"w_plus": ["load_encoder", "save_encoder"]})
