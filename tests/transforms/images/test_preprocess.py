"""Decoding: one file of each kind, made in memory, against the pixels it must give."""

import io
import itertools
import pickle
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from schemas.errors import DataError, InputError, UsageError
from schemas.store.reasons import Reason
from transforms.images import preprocess
from transforms.images.pixels import rgb_pixels
from transforms.images.preprocess import Quarantine, cropped, decode, fit, probe, to_float, to_uint8


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (13, 20, 3), dtype=np.uint8)


@pytest.fixture
def grey():
    return np.random.default_rng(1).integers(0, 256, (13, 20), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, bit_depth, colour_type, rows, extra=()):
    """A PNG written chunk by chunk, for what Pillow does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    middle = b"".join(chunk(name, data) for name, data in extra)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def reason_of(data, **options):
    with pytest.raises(Quarantine) as caught:
        decode(data, **options)
    assert caught.value.text and not caught.value.text[0].isupper()
    return caught.value.reason


# -- good files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_lossless_formats_give_their_pixels(rgb, kind, options):
    data = encoded(rgb, kind, **options)
    pixels = decode(data)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, rgb)
    assert probe(io.BytesIO(data)) == (20, 13)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_lossy_formats_come_close(kind):
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, 0)
    image = np.repeat(ramp, 3, 2)
    error = decode(encoded(image, kind, quality=95)).astype(int) - image
    assert np.abs(error).mean() < 2


def oriented(upright, orientation):
    """The stored pixels that a viewer turns into ``upright`` (EXIF 2.3, table of tag 274)."""
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(stored[orientation](upright))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(rgb, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    if kind == "TIFF":
        options["tiffinfo"] = {0x0112: orientation}
    else:
        options["exif"] = exif
    data = encoded(oriented(rgb, orientation), kind, **options)
    np.testing.assert_array_equal(decode(data), rgb)
    assert probe(io.BytesIO(data)) == (20, 13)


def test_jpeg_orientation(rgb):
    big = np.repeat(np.repeat(rgb, 8, 0), 8, 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(oriented(big, 6), "JPEG", exif=exif, quality=95, subsampling=0))
    plain = decode(encoded(big, "JPEG", quality=95, subsampling=0))
    assert turned.shape == plain.shape
    assert np.abs(turned.astype(int) - plain).mean() < 3


def test_stereo_and_icon_files(rgb):
    big = np.repeat(np.repeat(rgb, 8, 0), 8, 1)
    two = {"save_all": True, "append_images": [Image.fromarray(255 - big)], "quality": 95}
    plain = decode(encoded(big, "JPEG", quality=95))
    np.testing.assert_array_equal(decode(encoded(big, "MPO", **two)), plain)
    square = np.ascontiguousarray(big[:64, :64])
    np.testing.assert_array_equal(decode(encoded(square, "ICO", sizes=[(64, 64)])), square)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_impossible_orientation_is_ignored(rgb, value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(decode(encoded(rgb, exif=exif)), rgb)


def test_damaged_exif_does_not_damage_the_pixels(rgb):
    data = encoded(rgb, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage")
    np.testing.assert_array_equal(decode(data), rgb)


def test_grey_and_bilevel_and_palette(grey):
    expected = np.repeat(grey[:, :, None], 3, 2)
    np.testing.assert_array_equal(decode(encoded(grey)), expected)
    bilevel = grey > 128
    data = encoded(Image.fromarray(bilevel))
    np.testing.assert_array_equal(decode(data), np.repeat(bilevel[:, :, None], 3, 2) * 255)
    palette = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint8)
    indexed = Image.frombytes("P", (20, 13), grey.tobytes())
    indexed.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decode(encoded(indexed)), palette[grey])
    np.testing.assert_array_equal(decode(encoded(indexed, "GIF")), palette[grey])


def over_grey(colour, alpha):
    """Exact rational composite over 128, rounded half up; the tolerance of one is for halves."""
    a = alpha.astype(float)[..., None] / 255
    return colour * a + 128 * (1 - a)


def test_alpha_is_composited_over_mid_grey(rgb, grey):
    rgba = np.dstack([rgb, grey])
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = decode(encoded(rgba, kind, **options))
        assert np.abs(pixels - over_grey(rgb, grey)).max() <= 0.5
    la = np.dstack([rgb[..., 0], grey])
    pixels = decode(encoded(Image.fromarray(la)))
    assert np.abs(pixels - over_grey(np.repeat(la[..., :1], 3, 2), grey)).max() <= 0.5


def test_transparent_and_opaque_alpha(rgb):
    clear = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    assert (decode(encoded(clear)) == 128).all()
    solid = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(decode(encoded(solid)), rgb)


def test_palette_transparency(grey):
    palette = np.random.default_rng(3).integers(0, 256, (256, 3), dtype=np.uint8)
    alphas = np.random.default_rng(4).integers(0, 256, 256, dtype=np.uint8)
    indexed = Image.frombytes("P", (20, 13), grey.tobytes())
    indexed.putpalette(palette.tobytes())
    pixels = decode(encoded(indexed, transparency=alphas.tobytes()))
    assert np.abs(pixels - over_grey(palette[grey], alphas[grey])).max() <= 0.5
    one = decode(encoded(indexed, "GIF", transparency=int(grey[0, 0])))
    mask = grey == grey[0, 0]
    assert (one[mask] == 128).all()
    np.testing.assert_array_equal(one[~mask], palette[grey][~mask])


def test_colour_keys(rgb, grey):
    keyed = decode(encoded(rgb, transparency=tuple(rgb[2, 3].tolist())))
    assert (keyed[2, 3] == 128).all()
    np.testing.assert_array_equal(keyed[0, 0], rgb[0, 0])
    keyed = decode(encoded(grey, transparency=int(grey[2, 3])))
    mask = grey == grey[2, 3]
    assert (keyed[mask] == 128).all()
    np.testing.assert_array_equal(keyed[~mask], np.repeat(grey[~mask][:, None], 3, 1))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = np.linspace(0, 65535, 16 * 16).round().astype(np.uint16).reshape(16, 16)
    expected = np.round(deep / 257.0)
    for data in (
        encoded(deep),
        encoded(deep, "TIFF"),
        encoded(deep, "PPM"),
        png(16, 16, 16, 0, [row.astype(">u2").tobytes() for row in deep]),
    ):
        pixels = decode(data)
        assert pixels.shape == (16, 16, 3)
        np.testing.assert_array_equal(pixels[..., 0], expected)
    big_endian = Image.frombytes("I;16B", (16, 16), deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(rgb_pixels(big_endian)[..., 1], expected)


def test_sixteen_bit_colour_and_keys():
    deep = np.random.default_rng(5).integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    rows = [row.astype(">u2").tobytes() for row in deep]
    pixels = decode(png(8, 8, 16, 2, rows))
    assert np.abs(pixels - deep / 257.0).max() <= 1
    key = struct.pack(">HHH", *deep[1, 1].tolist())
    keyed = decode(png(8, 8, 16, 2, rows, [(b"tRNS", key)]))
    assert (keyed[1, 1] == 128).all() and (keyed[0, 0] == pixels[0, 0]).all()
    grey_rows = [row.astype(">u2").tobytes() for row in deep[..., 0]]
    key = struct.pack(">H", int(deep[1, 1, 0]))
    keyed = decode(png(8, 8, 16, 0, grey_rows, [(b"tRNS", key)]))
    assert (keyed[1, 1] == 128).all()
    assert keyed[0, 0, 0] == round(int(deep[0, 0, 0]) / 257)
    alpha_rows = [row.astype(">u2").tobytes() for row in np.concatenate([deep, deep[..., :1]], 2)]
    with_alpha = decode(png(8, 8, 16, 6, alpha_rows))
    expected = over_grey(deep / 257.0, deep[..., 0] / 257.0)
    assert np.abs(with_alpha - expected).max() <= 2


def test_white_is_zero_tiff():
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    data = encoded(deep, "TIFF", tiffinfo={262: 0})
    image = Image.open(io.BytesIO(data))
    assert image.mode == "I;16" and image.tag_v2[262] == 0
    np.testing.assert_array_equal(decode(data)[..., 0], 255 - np.round(deep / 257.0))


def test_cmyk_without_a_profile(rgb):
    cmyk = Image.fromarray(rgb).convert("CMYK")
    np.testing.assert_array_equal(decode(encoded(cmyk, "TIFF")), rgb)
    big = cmyk.resize((160, 104), Image.Resampling.NEAREST)
    jpeg = decode(encoded(big, "JPEG", quality=98))
    expected = np.asarray(big.convert("RGB")).astype(int)
    assert np.abs(jpeg - expected).mean() < 12  # an inverted file would be off by about 85


INKS = np.array([[20, 150, 190], [200, 40, 120], [250, 220, 60], [0, 0, 0]]) / 255
CORNERS = np.array(list(itertools.product((0, 1), repeat=4)))


def printed(corners):
    """What the planted press prints: inks are filters that multiply. sRGB in [0, 1], (n, 3)."""
    return np.prod(np.where(corners[:, :, None] == 1, INKS, 1.0), axis=1)


def lab(srgb):
    """sRGB in [0, 1] -> CIELAB under D50, by Bradford's matrix as ICC gives it."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169],
              [0.0139322, 0.0971045, 0.7141733]]  # fmt: skip
    xyz = linear @ np.array(to_xyz).T / [0.9642, 1.0, 0.8249]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def cmyk_profile():
    """An ICC profile (version 2, class prtr) of the planted press: a table from CMYK to Lab."""
    nodes = lab(printed(CORNERS))
    words = np.rint([[0xFF00 / 100, 256, 256]] * (nodes + [0, 128, 128])).clip(0, 0xFFFF)
    linear = np.array([0, 0xFFFF], ">u2").tobytes()
    identity = np.array([1, 0, 0, 0, 1, 0, 0, 0, 1], ">i4") << 16
    table = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + identity.astype(">i4").tobytes()
    table += struct.pack(">HH", 2, 2) + 4 * linear + words.astype(">u2").tobytes() + 3 * linear
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    start = 128 + 4 + 2 * 12
    size = start + len(table) + len(white)
    head = struct.pack(">I4xI4s4s4s", size, 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H4s28x3i", 2020, 1, 1, 0, 0, 0, b"acsp", 63190, 65536, 54061)
    tags = struct.pack(">I4sII", 2, b"A2B0", start, len(table))
    tags += struct.pack(">4sII", b"wtpt", start + len(table), len(white))
    return head.ljust(128, b"\0") + tags + table + white


def test_cmyk_with_a_profile():
    """Each ink and overprint comes out as the profile says, which is far from 255 - ink."""
    inks = (255 * CORNERS.reshape(4, 4, 4)).astype(np.uint8)
    plain = Image.fromarray(inks, "CMYK")
    expected = 255 * printed(CORNERS).reshape(4, 4, 3)
    pixels = decode(encoded(plain, "TIFF", icc_profile=cmyk_profile()))
    assert np.abs(pixels - expected).max() <= 1.5
    assert np.abs(decode(encoded(plain, "TIFF")) - expected).max() > 100
    big = plain.resize((64, 64), Image.Resampling.NEAREST)
    jpeg = decode(encoded(big, "JPEG", quality=100, subsampling=0, icc_profile=cmyk_profile()))
    assert np.abs(jpeg[8::16, 8::16] - expected).max() <= 4


def test_animations_give_the_first_frame(rgb):
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(data), rgb)
    two = np.where(rgb[..., :1] > 127, 255, 0).astype(np.uint8).repeat(3, 2)
    gif = [Image.fromarray(two), Image.fromarray(255 - two)]
    data = encoded(gif[0], "GIF", save_all=True, append_images=gif[1:])
    np.testing.assert_array_equal(decode(data), two)


def linear_profile():
    """A profile with sRGB's primaries and a linear curve, made from LittleCMS's sRGB."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    n_tags = struct.unpack(">I", raw[128:132])[0]
    for i in range(n_tags):
        name, offset, size = struct.unpack(">4sII", raw[132 + 12 * i : 144 + 12 * i])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            linear = b"para" + b"\0" * 4 + struct.pack(">HHi", 0, 0, 1 << 16)
            raw[offset : offset + size] = linear.ljust(size, b"\0")
    return bytes(raw)


def test_icc_profile_is_converted_to_srgb(rgb):
    linear = rgb / 255.0
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    pixels = decode(encoded(rgb, icc_profile=linear_profile()))
    assert np.abs(pixels - 255 * srgb).max() <= 1.5
    assert np.abs(pixels.astype(int) - rgb).max() > 30


def test_srgb_profile_changes_nothing(rgb):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode(encoded(rgb, icc_profile=profile)), rgb)


def test_unusable_profiles_are_ignored(rgb, grey):
    np.testing.assert_array_equal(decode(encoded(rgb, icc_profile=b"no profile at all")), rgb)
    np.testing.assert_array_equal(
        decode(encoded(grey, icc_profile=linear_profile())), np.repeat(grey[:, :, None], 3, 2)
    )


def test_profile_survives_rotation_and_alpha(rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = decode(encoded(rgb, icc_profile=linear_profile()))
    turned = decode(encoded(oriented(rgb, 6), icc_profile=linear_profile(), exif=exif))
    np.testing.assert_array_equal(turned, plain)
    half = np.dstack([rgb, np.full(rgb.shape[:2], 128, np.uint8)])
    blended = decode(encoded(half, icc_profile=linear_profile()))
    assert np.abs(blended - over_grey(plain, half[..., 3])).max() <= 0.5


# -- bad files -------------------------------------------------------------------------------


def test_empty_and_foreign_files():
    assert reason_of(b"") == Reason.EMPTY
    assert reason_of(b"hello, this is text\n" * 10) == Reason.NOT_AN_IMAGE
    assert reason_of(bytes(1000)) == Reason.NOT_AN_IMAGE
    assert reason_of(b"PK\x03\x04" + bytes(100)) == Reason.NOT_AN_IMAGE
    for head in (b"8BPS\0\1", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4", b"<svg xmlns=''/>"):
        assert reason_of(head + bytes(50)) == Reason.UNSUPPORTED
    assert reason_of(b'<?xml version="1.0"?><svg/>') == Reason.UNSUPPORTED
    assert reason_of(b"\0\0\0\x18ftypheic" + bytes(50)) == Reason.UNSUPPORTED


def test_postscript_never_starts_ghostscript(rgb, monkeypatch):
    import subprocess

    def refuse(*args, **options):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert reason_of(encoded(rgb, "EPS")) == Reason.UNSUPPORTED


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_truncated_files(kind, kept):
    image = np.random.default_rng(6).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(image, kind)
    reason = reason_of(data[: int(kept * len(data))])
    assert reason in (Reason.TRUNCATED, Reason.CORRUPT)
    if kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        assert reason == Reason.TRUNCATED


def test_truncation_is_found_even_if_the_process_tolerates_it(rgb, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    big = np.repeat(np.repeat(rgb, 8, 0), 8, 1)
    data = encoded(big, "JPEG")
    assert reason_of(data[: len(data) // 2]) == Reason.TRUNCATED
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_corrupt_png_is_noticed(rgb):
    """Every byte of the compressed pixels counts (33 + 8: signature, IHDR and IDAT's head)."""
    data = encoded(np.tile(rgb, (2, 2, 1)))
    for position in range(41, len(data) - 12):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        assert reason_of(bytes(damaged)) in (Reason.CORRUPT, Reason.TRUNCATED)


def test_exif_behind_the_pixels_of_a_png(rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = [row.tobytes() for row in oriented(rgb, 6)]
    data = png(13, 20, 8, 2, rows)
    payload = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(payload) - 4) + payload + struct.pack(">I", zlib.crc32(payload))
    data = data[:-12] + chunk + data[-12:]
    np.testing.assert_array_equal(decode(data), rgb)
    assert probe(io.BytesIO(data)) == (20, 13)


def test_probe_decodes_nothing(rgb, monkeypatch):
    files = [encoded(rgb, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for data in files:
        assert probe(io.BytesIO(data)) == (20, 13)


def test_decompression_bombs_are_refused_on_the_header(monkeypatch):
    bomb = png(60_000, 60_000, 1, 0, [])
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert reason_of(bomb) == Reason.TOO_LARGE
    assert reason_of(png(12_000, 12_000, 1, 0, [])) == Reason.TOO_LARGE
    assert reason_of(png(11, 10, 8, 0, []), max_pixels=109) == Reason.TOO_LARGE
    with pytest.raises(Quarantine, match="11 x 10 is 110 pixels"):
        probe(io.BytesIO(png(11, 10, 8, 0, [])), max_pixels=109)


def test_pixel_count_limit_is_inclusive(rgb):
    np.testing.assert_array_equal(decode(encoded(rgb), max_pixels=260), rgb)


def test_undeclared_ranges_are_unsupported():
    assert reason_of(encoded(np.ones((4, 4), np.float32), "TIFF")) == Reason.UNSUPPORTED
    assert reason_of(encoded(np.full((4, 4), 10, np.int32), "TIFF")) == Reason.UNSUPPORTED


def test_out_of_memory_is_transient(rgb, monkeypatch):
    def fail(self):
        raise MemoryError

    data = encoded(rgb)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert reason_of(data) == Reason.OUT_OF_MEMORY


def test_quarantine_travels_between_processes():
    error = pickle.loads(pickle.dumps(Quarantine(Reason.CORRUPT, "bad")))  # noqa: S301
    assert isinstance(error, InputError)
    assert (error.reason, error.text, str(error)) == (Reason.CORRUPT, "bad", "bad")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "JPEG2000"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    st.integers(0, 10_000),
)
def test_fuzzed_files_decode_or_quarantine(kind, edits, cut):
    image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    data = bytearray(encoded(image, kind))
    for position, value in edits:
        data[position % len(data)] = value
    data = bytes(data[: cut % (2 * len(data)) or None])
    try:
        pixels = decode(data, max_pixels=1 << 16)
    except Quarantine as e:
        assert e.reason != Reason.NONE
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_no_warning_leaks_and_filters_are_restored(monkeypatch, rgb):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # 260 pixels: Pillow would warn
    truncated_tiff = encoded(rgb, "TIFF")[:60]
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inner = list(warnings.filters)
        np.testing.assert_array_equal(decode(encoded(rgb)), rgb)
        reason_of(truncated_tiff)
        assert warnings.filters == inner
    assert not caught
    assert warnings.filters == before


def test_threads_share_the_settings(rgb):
    files = [encoded(rgb), encoded(rgb, "TIFF")[:60], encoded(rgb, "WEBP", lossless=True)]
    before, wrong = list(warnings.filters), []

    def work(k):
        for i in range(30):
            try:
                if not np.array_equal(decode(files[(i + k) % 3]), rgb):
                    wrong.append(k)
            except Quarantine:
                if (i + k) % 3 != 1:
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and warnings.filters == before


# -- fit and floats --------------------------------------------------------------------------


def test_fit_crops_the_centre():
    image = np.zeros((8, 13, 3), np.uint8)
    image[:, 2:10] = 200  # (13 - 8) // 2 = 2
    assert (fit(image, 8) == 200).all()
    assert (fit(image.transpose(1, 0, 2), 8) == 200).all()


def test_fit_is_the_identity_at_the_right_size(rgb):
    square = rgb[:13, :13]
    np.testing.assert_array_equal(fit(square, 13), square)
    assert fit(rgb[:, :13], 13).flags.c_contiguous


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_integer_shrinking_is_the_block_mean(factor):
    image = np.random.default_rng(7).integers(0, 256, (8 * factor, 8 * factor, 3), dtype=np.uint8)
    mean = image.reshape(8, factor, 8, factor, 3).mean(axis=(1, 3))
    assert np.abs(fit(image, 8) - mean).max() <= 1.0


def test_other_sizes_use_lanczos():
    image = np.random.default_rng(8).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    for resolution in (8, 64, 60):
        expected = Image.fromarray(image).resize((resolution,) * 2, Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(fit(image, resolution), np.asarray(expected))


def test_stretch_keeps_the_whole_image():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8] = 255
    stretched = fit(image, 8, "stretch")
    assert (stretched[:, :4] == 255).all() and (stretched[:, 4:] == 0).all()


def test_fit_refuses_what_it_cannot_fit(rgb):
    with pytest.raises(UsageError, match="'center'.*'centre', 'stretch'"):
        fit(rgb, 8, "center")
    with pytest.raises(UsageError, match="at least 1"):
        fit(rgb, 0)
    for bad in (rgb[..., 0], rgb.astype(float), rgb[:0]):
        with pytest.raises(DataError, match="uint8"):
            fit(bad, 8)


@pytest.mark.parametrize(("shape", "box"), [
    ((100, 64), (0, 2, 64, 98)),  # too tall for 48 x 32: 96 of 100 rows
    ((48, 80), (24, 0, 56, 48)),  # too wide: 32 of 80 columns
    ((96, 64), (0, 0, 64, 96)),
])  # fmt: skip
def test_a_picture_that_is_not_square_is_cropped_to_its_ratio(shape, box):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    expected = Image.fromarray(image).crop(box)
    kind = Image.Resampling.BOX if expected.height % 48 == 0 == expected.width % 32 else None
    expected = np.asarray(expected.resize((32, 48), kind or Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(fit(image, (48, 32)), expected)
    assert fit(image, (48, 32), "stretch").shape == (48, 32, 3)
    assert fit(image, (48, 1), "stretch").shape == (48, 1, 3)
    with pytest.raises(UsageError, match="at least 1 pixel"):
        fit(image, (48, 0))


def test_float_conversion_round_trips_every_level():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    floats = to_float(levels)
    assert floats.dtype == np.float32 and floats.shape == (1, 3, 16, 16)
    assert floats.min() == -1.0 and floats.max() == 1.0 and floats.flags.c_contiguous
    np.testing.assert_allclose(floats[0, 0].ravel(), np.arange(256) / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(to_uint8(floats), levels)


def test_to_uint8_clips_and_refuses_nonsense():
    image = np.zeros((2, 3, 2, 2), np.float32)
    image[0] = 7.0
    image[1] = -7.0
    pixels = to_uint8(image)
    assert (pixels[0] == 255).all() and (pixels[1] == 0).all()
    image[1, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"rows \[1\]"):
        to_uint8(image)
    with pytest.raises(DataError, match="must be"):
        to_uint8(np.zeros((2, 4, 4, 3)))
    with pytest.raises(DataError, match="must be uint8"):
        to_float(np.zeros((2, 4, 4, 3)))


def test_golden_pixels_belong_to_the_version():
    """Changes of these numbers need a new PREPROCESS_VERSION."""
    image = (np.arange(30 * 40 * 4).reshape(30, 40, 4) * 7919 % 251).astype(np.uint8)
    pixels = fit(decode(encoded(image)), 8)
    checks = {1: (322695263, (8, 8, 3))}
    assert (zlib.crc32(pixels.tobytes()), pixels.shape) == checks[preprocess.PREPROCESS_VERSION]


def test_the_part_that_is_kept_is_square_unless_a_size_is_given():
    image = np.arange(4 * 7 * 3, dtype=np.uint8).reshape(4, 7, 3)
    np.testing.assert_array_equal(cropped(image), image[:, 1:5])
    np.testing.assert_array_equal(cropped(image, size=(4, 6)), image[:, :6])


def test_of_an_endless_exif_chunk_one_megabyte_is_read():
    class Counted(io.BytesIO):
        most = 0

        def read(self, size=-1):
            self.most = max(self.most, size)
            return super().read(size)

    head = (2**31 - 1).to_bytes(4, "big") + b"eXIf"
    file = Counted(b"\x89PNG\r\n\x1a\n" + head + b"II*\0")
    assert preprocess._late_png_exif(file) == {"exif": b"Exif\0\0II*\0"}
    assert file.most == 2**20


def test_the_length_of_a_bitmap_is_told_by_four_bytes_whatever_follows_them():
    length = (200).to_bytes(4, "little")
    for reserved, size, reason in (
        (b"\0\0\0\0", 200, Reason.CORRUPT),
        (b"made", 200, Reason.CORRUPT),
        (b"made", 199, Reason.TRUNCATED),
    ):
        ends = preprocess._Ends(b"BM" + length + reserved, b"", size)
        assert preprocess._damage(ends) == reason


def test_a_sound_is_no_image_and_a_webp_that_is_cut_is_a_damaged_one():
    with pytest.raises(Quarantine) as sound:
        decode(b"RIFF" + (32).to_bytes(4, "little") + b"WAVEfmt " + bytes(24))
    with pytest.raises(Quarantine) as cut:
        decode(b"RIFF" + (1000).to_bytes(4, "little") + b"WEBPVP8 " + bytes(24))
    assert (sound.value.reason, cut.value.reason) == (Reason.NOT_AN_IMAGE, Reason.TRUNCATED)


def test_a_webp_file_is_eight_bytes_longer_than_it_says():
    head = b"RIFF" + (192).to_bytes(4, "little") + b"WEBP"
    for size, reason in ((200, Reason.CORRUPT), (199, Reason.TRUNCATED)):
        assert preprocess._damage(preprocess._Ends(head, b"", size)) == reason
