"""From the bytes of an image file to the pixels a model sees, and back.

One convention for the whole pipeline, numbered by ``PREPROCESS_VERSION`` (part of every store's
fingerprint, so a change here makes new stores instead of mixing two conventions in one):

decode
    EXIF orientation applied; ICC profile converted to sRGB; alpha composited over mid-grey (128);
    16-bit grey scaled to 8 bits; palette, bilevel, grey and CMYK brought to RGB; of an animation
    the first frame. A file that cannot be decoded raises `Quarantine` with a reason.
fit
    centre crop to the model's aspect ratio (or stretch), then a Pillow resize: BOX where both sides
    shrink by an integer factor, LANCZOS otherwise, nothing where the size is right already.
floats
    float32 NCHW in [-1, 1]; 0 maps to -1 and 255 to 1.

The file is untrusted. Only the formats in ``FORMATS`` are opened (EPS, for one, would start
Ghostscript), and the pixel count is checked on the header, before anything is decoded.
"""

from __future__ import annotations

import io
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from schemas.errors import DataError, UsageError
from schemas.store.reasons import Reason
from transforms.images.pixels import rgb_pixels
from transforms.images.quarantine import Quarantine

__all__ = [
    "CROPS",
    "DEFAULT_MAX_PIXELS",
    "FORMATS",
    "PREPROCESS_VERSION",
    "Quarantine",
    "cropped",
    "decode",
    "fit",
    "probe",
    "to_float",
    "to_uint8",
]

PREPROCESS_VERSION = 1
"""Part of every store fingerprint; raised whenever a decoded or fitted pixel changes."""

DEFAULT_MAX_PIXELS = 1 << 26
"""Images with more pixels than this (8192 x 8192) are refused as decompression bombs."""

PILLOW_MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or (1 << 27))
"""Pillow's own refusal, on the header as well; a larger ``max_pixels`` has no effect."""

CROPS = ("centre", "stretch")
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")

_ORIENTATION_TAG = 0x0112
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BOX_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_READABLE_MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",
    b"\xffO\xffQ",
    b"\x00\x00\x01\x00",
)
_FOREIGN_MAGIC = (
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "PostScript"),
    (b"%PDF", "PDF"),
    (b"SIMPLE  =", "FITS"),
    (b"DDS ", "a DirectDraw surface"),
    (b"qoif", "QOI"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"<svg", "SVG"),
)


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode one image file into sRGB pixels.

    data : the whole file
    max_pixels : largest accepted width x height, checked on the header

    Returns uint8 (height, width, 3), as seen with the EXIF orientation applied.

    Raises `Quarantine`: EMPTY (no bytes), NOT_AN_IMAGE, UNSUPPORTED (an image, but of a format or
    pixel type whose values have no declared range), TOO_LARGE, TRUNCATED, CORRUPT, OUT_OF_MEMORY.

    JPEG data that was altered but not shortened decodes to altered pixels: the format carries no
    checksum. (The index's content hash is what notices that a file has changed.)
    """
    file, ends = io.BytesIO(data), _Ends(data[:1024], data[-1024:], len(data))
    with _errors_become_quarantine(ends), _strict_quiet_pillow():
        image = _open(file, ends, max_pixels)
        if image.format == "PNG":
            _check_png_sums(data)
        image.load()
        if image.format != "TIFF":  # Pillow applies a TIFF's own tag while loading
            transposition = _TRANSPOSED.get(_orientation(image))
            if transposition is not None:
                image = _transpose(image, transposition)
        return rgb_pixels(image)


def probe(file: BinaryIO, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Width and height in pixels that `decode` would give, from the header alone.

    file : seekable binary file; only its header (and its ends, for the error) is read
    Raises `Quarantine` as `decode` does, as far as the header shows it.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 1024))
    tail = file.read(1024)
    file.seek(0)
    ends = _Ends(file.read(1024), tail, size)
    file.seek(0)
    with _errors_become_quarantine(ends), _strict_quiet_pillow():
        image = _open(file, ends, max_pixels)
        width, height = image.size
        if image.format == "PNG" and "exif" not in image.info:
            image.info.update(_late_png_exif(file))
        if image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        return width, height


def fit(
    image: NDArray[np.uint8], size: int | tuple[int, int], crop: str = "centre"
) -> NDArray[np.uint8]:
    """Bring one image to the model's size.

    image : uint8 (height, width, 3)
    size : (height, width) of the result in pixels, or the side of a square
    crop : "centre" cuts the largest centred part of the result's aspect ratio first (an odd
        remainder leaves the extra row or column at the bottom or right); "stretch" resizes both
        sides independently

    Returns uint8 (*size, 3), contiguous. BOX where both sides shrink by an
    integer factor (an exact block mean, up to rounding), LANCZOS otherwise; an image that has the
    size already is returned unchanged.

    Raises UsageError for an unknown crop, DataError for another shape or dtype.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) < 1:
        raise UsageError(f"size must be at least 1 pixel, got {size!r}")
    image = np.ascontiguousarray(cropped(image, crop, (rows, columns)))
    height, width = image.shape[:2]
    if (height, width) == (rows, columns):
        return image
    integer = height % rows == 0 and width % columns == 0
    method = Image.Resampling.BOX if integer else Image.Resampling.LANCZOS
    resized = Image.fromarray(image).resize((columns, rows), method)
    return np.array(resized, dtype=np.uint8)


def cropped(
    image: NDArray[np.uint8], crop: str = "centre", size: tuple[int, int] = (1, 1)
) -> NDArray[np.uint8]:
    """The part of an image uint8 (height, width, 3) that `fit` resizes to `size` (height, width):
    its largest centred part of that aspect ratio, or all of it. Raises as `fit` does."""
    if crop not in CROPS:
        raise UsageError(f"unknown crop {crop!r}: choose one of {', '.join(map(repr, CROPS))}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(
            f"'image' must be uint8 (height, width, 3), got {image.dtype} {image.shape}: "
            "pass the result of decode()"
        )
    if crop == "stretch":
        return image
    height, width = image.shape[:2]
    rows, columns = (int(side[0]) for side in crop_sizes(np.array([[height, width]]), size).T)
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


def crop_sizes(sizes: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """Heights and widths of the largest parts, of the aspect ratio of `size` (height, width), of
    images of heights and widths `sizes` (n, 2)."""
    height, width = sizes.T
    rows = np.minimum(height, np.maximum(1, width * size[0] // size[1]))
    columns = np.minimum(width, np.maximum(1, height * size[1] // size[0]))
    return np.stack([rows, columns], axis=1)


def to_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (n, height, width, 3) in 0..255 -> float32 (n, 3, height, width) in [-1, 1]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(
            f"'images' must be uint8 (n, height, width, 3), got {images.dtype} {images.shape}"
        )
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    planes /= np.float32(127.5)
    planes -= np.float32(1.0)
    return planes


def to_uint8(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """float (n, 3, height, width), nominally in [-1, 1] -> uint8 (n, height, width, 3).

    Values outside [-1, 1] are clipped, the rest rounded to the nearest level; ``to_uint8(
    to_float(x)) == x``. Raises DataError naming the rows that hold NaN or infinity (an integer
    has no way to show them).
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"'images' must be (n, 3, height, width), got {images.shape}")
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        rows = np.flatnonzero(~finite)[:8].tolist()
        raise DataError(
            f"'images' has non-finite values in rows {rows!r}: quarantine those rows as "
            "NOT_FINITE before converting to pixels"
        )
    levels = images.astype(np.float32) * np.float32(127.5)
    levels += np.float32(127.5)
    np.rint(levels, out=levels)
    np.clip(levels, 0, 255, out=levels)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


# ---------------------------------------------------------------------------------------------
# Opening


@dataclass(frozen=True)
class _Ends:
    """What tells the kind of damage: the first and last 1024 bytes, and the length."""

    head: bytes
    tail: bytes
    size: int


def _open(file: BinaryIO, ends: _Ends, max_pixels: int) -> Image.Image:
    if not ends.size:
        raise Quarantine(Reason.EMPTY, "the file holds no bytes")
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as e:
        raise _unidentified(ends) from e
    except Image.DecompressionBombError as e:
        raise Quarantine(Reason.TOO_LARGE, f"more than {PILLOW_MAX_PIXELS} pixels") from e
    width, height = image.size
    if width * height > max_pixels:
        raise Quarantine(
            Reason.TOO_LARGE,
            f"{width} x {height} is {width * height} pixels, over the limit of {max_pixels}: "
            "shrink the file, or raise 'max_pixels' if it is genuine",
        )
    return image


def _unidentified(ends: _Ends) -> Quarantine:
    head, text = ends.head, ends.head.lstrip()
    if head.startswith(_READABLE_MAGIC) or _riff_webp(head) or _iso_brand(head) in _BOX_BRANDS:
        return Quarantine(_damage(ends), "the header of the image file is damaged or cut off")
    for magic, name in _FOREIGN_MAGIC:
        if text.startswith(magic):
            return _unsupported_format(name)
    if _iso_brand(head) in _HEIF_BRANDS:
        return _unsupported_format("HEIF")
    if text.startswith(b"<?xml") and b"<svg" in text:
        return _unsupported_format("SVG")
    return Quarantine(Reason.NOT_AN_IMAGE, "the bytes are not those of any known image format")


def _unsupported_format(name: str) -> Quarantine:
    return Quarantine(
        Reason.UNSUPPORTED,
        f"the file is {name}, which is not read: convert it to PNG, JPEG, WebP or TIFF",
    )


def _riff_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"")


def _iso_brand(data: bytes) -> bytes:
    return data[8:12] if data[4:8] == b"ftyp" else b""


def _damage(ends: _Ends, error: BaseException | None = None) -> Reason:
    """TRUNCATED where the decoder says so or the format's end is missing, else CORRUPT."""
    message = str(error).lower()
    if any(word in message for word in ("truncated", "eof", "unexpected end", "not enough")):
        return Reason.TRUNCATED
    head, tail = ends.head, ends.tail
    cut = (
        (head.startswith(b"\x89PNG") and b"IEND" not in tail)
        or (head.startswith(b"\xff\xd8") and b"\xff\xd9" not in tail)
        or (head.startswith(b"GIF8") and not tail.rstrip(b"\0").endswith(b";"))
        or (head.startswith(b"RIFF") and int.from_bytes(head[4:8], "little") + 8 > ends.size)
        or (head.startswith(b"BM") and int.from_bytes(head[2:6], "little") > ends.size)
    )
    return Reason.TRUNCATED if cut else Reason.CORRUPT


@contextmanager
def _errors_become_quarantine(ends: _Ends) -> Iterator[None]:
    try:
        yield
    except Quarantine:
        raise
    except MemoryError as e:
        raise Quarantine(Reason.OUT_OF_MEMORY, "not enough memory to decode the image") from e
    except Exception as e:
        # A fuzzed file can raise nearly anything out of Pillow's parsers (struct.error, KeyError,
        # SyntaxError, ...), and one bad file must never end a run of thousands.
        raise Quarantine(
            _damage(ends, e), f"the image cannot be decoded: {type(e).__name__}: {e}"
        ) from e


class _PillowState:
    """Process-wide Pillow settings, held while at least one thread decodes.

    ``warnings.catch_warnings`` is not made for threads (the last exit would restore another
    thread's filters), hence one shared entry, counted.
    """

    lock = threading.Lock()
    users = 0
    caught: warnings.catch_warnings[None]
    load_truncated = False


@contextmanager
def _strict_quiet_pillow() -> Iterator[None]:
    """Silence Pillow's own warnings; refuse truncated files whatever the process had set."""
    state = _PillowState
    with state.lock:
        if state.users == 0:
            state.caught = warnings.catch_warnings()
            state.caught.__enter__()
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", module=r"PIL\.")
            state.load_truncated = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        state.users += 1
    try:
        yield
    finally:
        with state.lock:
            state.users -= 1
            if state.users == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = state.load_truncated
                state.caught.__exit__(None, None, None)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or the EXIF block itself is damaged."""
    try:
        # the base class's method: PngImageFile's own would decode the image, errors and all
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except MemoryError:
        raise
    except Exception:  # damaged metadata does not damage the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_png_sums(data: bytes) -> None:
    """Check the CRC of the chunks that make pixels; Pillow skips them, and its decoder stops at
    the last row, before the stream's own checksum."""
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        size = int.from_bytes(view[position : position + 4], "big")
        end = position + 8 + size
        name = bytes(view[position + 4 : position + 8])
        if end + 4 > len(data) or name == b"IEND":
            return  # a missing end is the decoder's to judge
        stored = int.from_bytes(view[end : end + 4], "big")
        if name in _PNG_PIXEL_CHUNKS and zlib.crc32(view[position + 4 : end]) != stored:
            text = f"the checksum of the {name.decode()} chunk at byte {position} is wrong"
            raise Quarantine(Reason.CORRUPT, text)
        position = end + 4


def _late_png_exif(file: BinaryIO) -> dict[str, bytes]:
    """The eXIf chunk of a PNG, which may stand behind the pixels; only chunk heads are read."""
    position = 8
    while True:
        file.seek(position)
        head = file.read(8)
        size = int.from_bytes(head[:4], "big")
        if len(head) < 8 or head[4:] == b"IEND":
            return {}
        if head[4:] == b"eXIf":
            return {"exif": b"Exif\0\0" + file.read(min(size, 1 << 20))}
        position += size + 12


def _transpose(image: Image.Image, method: Image.Transpose) -> Image.Image:
    info = dict(image.info)
    turned = image.transpose(method)
    turned.info = info
    turned.format = image.format
    return turned
