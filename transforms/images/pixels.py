"""Pillow images of every mode to 8-bit sRGB: 16-bit grey, palettes, alpha, ICC profiles."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from schemas.store.reasons import Reason
from transforms.images.quarantine import Quarantine

ALPHA_GREY = 128

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262


def rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """A loaded Pillow image of any mode -> contiguous uint8 (height, width, 3) sRGB."""
    profile = image.info.get("icc_profile")
    alpha: NDArray[np.uint8] | None = None
    if image.mode.startswith("I"):
        image, alpha = _grey16_to_grey8(image)
    elif image.mode == "F":
        raise Quarantine(
            Reason.UNSUPPORTED,
            "floating-point pixels have no declared range: convert the file to 8 or 16 bits",
        )
    else:
        image, alpha = _without_alpha(image)
    rgb = np.asarray(_to_srgb(image, profile), dtype=np.uint8)
    if alpha is not None:
        rgb = _over_grey(rgb, alpha)
    return np.array(rgb, dtype=np.uint8, order="C")


def _without_alpha(image: Image.Image) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """Split into a colour image of mode L, RGB or CMYK and an alpha plane (None if opaque)."""
    mode = image.mode
    key = image.info.get("transparency")
    if mode == "P":
        transparent = key is not None or (image.palette and image.palette.mode == "RGBA")
        image = image.convert("RGBA" if transparent else "RGB")
    elif mode in ("1", "L", "RGB") and key is not None:
        image = _colour_key_to_alpha(image, key)
    elif mode in ("PA", "RGBa", "La"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGB")
    if image.mode not in ("LA", "RGBA"):
        return image, None
    alpha = np.asarray(image.getchannel("A"), dtype=np.uint8)
    colour = image.convert("L") if image.mode == "LA" else image.convert("RGB")
    return colour, None if alpha.min() == 255 else alpha


def _colour_key_to_alpha(image: Image.Image, key: object) -> Image.Image:
    """PNG tRNS for grey and RGB: one colour is fully transparent.

    Pillow keeps the high byte of 16-bit RGB samples but the key's full 16 bits, so the key is
    brought to 8 bits as well.
    """
    levels = key if isinstance(key, tuple) else (key,)
    if isinstance(key, bytes) or not all(isinstance(level, int) for level in levels):
        image.info.pop("transparency")
        return image.convert("RGB" if image.mode == "RGB" else "L")
    wide = any(level > 255 for level in levels)
    narrow = np.array([level >> 8 if wide else level for level in levels], dtype=np.uint8)
    base = image.convert("L") if image.mode == "1" else image
    base.info.pop("transparency", None)
    pixels = np.asarray(base).reshape(base.height, base.width, -1)
    alpha = np.where((pixels == narrow).all(axis=2), 0, 255).astype(np.uint8)
    keyed = base.convert("RGBA")
    keyed.putalpha(Image.fromarray(alpha))
    return keyed if image.mode == "RGB" else keyed.convert("LA")


def _grey16_to_grey8(image: Image.Image) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """16-bit grey -> mode L, scaled by 255 / full scale and rounded; alpha from a PNG tRNS key.

    Full scale is 65535, or 2**bits - 1 where a TIFF declares fewer bits. 32-bit integers have no
    declared range, except a PPM's and a PNG's, which Pillow delivers on the 16-bit scale.
    """
    tags = getattr(image, "tag_v2", None) or {}
    if image.mode == "I" and image.format not in ("PPM", "PNG"):
        raise Quarantine(
            Reason.UNSUPPORTED,
            "32-bit or signed integer pixels have no declared range: "
            "convert the file to 8 or 16 bits",
        )
    values = np.asarray(image).astype(np.int64)
    bits = int(tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0])
    full = (1 << bits) - 1
    grey = (values * 255 + full // 2) // full
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero
        grey = 255 - grey
    key = image.info.get("transparency")
    alpha = None
    if isinstance(key, int):
        alpha = np.where(values == key, 0, 255).astype(np.uint8)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)), alpha


def _over_grey(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite over mid-grey: round((c a + 128 (255 - a)) / 255)."""
    a = alpha.astype(np.int32)[:, :, None]
    blended = (rgb.astype(np.int32) * a + ALPHA_GREY * (255 - a) + 127) // 255
    return blended.astype(np.uint8)


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Mode L, RGB or CMYK -> RGB in sRGB. A profile that cannot be used is ignored."""
    if isinstance(profile, bytes) and profile:
        transform = _icc_transform(profile, image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            if converted is not None:
                return converted
    return image.convert("RGB")


@lru_cache(maxsize=32)
def _icc_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; None for a damaged profile, one of another colour space than the
    pixels (a grey image with an RGB profile), or one that is sRGB itself to within one level."""
    expected = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[mode]
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != expected:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "RGB":
        steps = np.linspace(0, 255, 18).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(18, -1, 3)
        mapped = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform))
        if np.abs(mapped.astype(np.int16) - grid).max() <= 1:
            return None
    return transform
