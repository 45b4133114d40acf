"""ICC profiles (ICC.1:2001-04) made here, as cameras, editors and print shops embed them."""

import struct

import numpy as np

# CIE xy of red, green, blue and white, and the exponent of the tone curve; none is sRGB's curve.
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290), None)
ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), (0.3127, 0.3290), 563 / 256)
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), (0.3127, 0.3290), None)
D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def rgb_profile(space):
    """A matrix and three curves."""
    matrix, gamma = to_d50(space), space[4]
    tags = {b"wtpt": _xyz(D50)}
    for index, name in enumerate((b"r", b"g", b"b")):
        tags[name + b"XYZ"] = _xyz(matrix[:, index])
        tags[name + b"TRC"] = _curve(gamma)
    return _profile(b"RGB ", b"XYZ ", b"mntr", tags)


def grey_profile(gamma):
    return _profile(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)})


def cmyk_profile(whiteness=1.0):
    """Four inks to Lab by a table of 2^4 points: ink K alone makes the paper black, others grey."""
    inputs = struct.pack(">BBBB9iHH", 4, 3, 2, 0, *[65536 * (n % 4 == 0) for n in range(9)], 2, 2)
    line = struct.pack(">HH", 0, 65535)
    grid = []
    for corner in range(16):
        cyan, magenta, yellow, black = (corner >> shift & 1 for shift in (3, 2, 1, 0))
        light = 0 if black else whiteness * (1 - (cyan + magenta + yellow) / 4)
        grid.append(struct.pack(">HHH", round(0xFF00 * light), 0x8000, 0x8000))
    table = b"mft2" + bytes(4) + inputs + line * 4 + b"".join(grid) + line * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": _xyz(D50), b"A2B0": table})


def to_d50(space):
    """The matrix from linear RGB to XYZ under D50."""
    columns = np.array([_xyz_of(*xy) for xy in space[:3]]).T
    white = _xyz_of(*space[3])
    matrix = columns * np.linalg.solve(columns, white)
    cone = (_BRADFORD @ D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(cone) @ _BRADFORD @ matrix


def convert(pixels, space):
    """What a viewer shows in sRGB of pixels in another space, (..., 3) uint8: by the definition."""
    linear = _decode(pixels / 255, space[4]) @ (np.linalg.inv(to_d50(SRGB)) @ to_d50(space)).T
    return np.round(encode_srgb(np.clip(linear, 0, 1)) * 255).astype(np.uint8)


def encode_srgb(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _decode(values, gamma):
    if gamma is not None:
        return values**gamma
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _xyz_of(x, y):
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _xyz(values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * float(v)) for v in values))


def _curve(gamma):
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma)) + bytes(2)
    samples = np.round(65535 * _decode(np.linspace(0, 1, 1024), None)).astype(int)
    return b"curv" + bytes(4) + struct.pack(">I1024H", 1024, *samples)


def _profile(colours, between, kind, tags):
    tags = {b"desc": _description(), b"cprt": b"text" + bytes(4) + b"none\0\0\0\0"} | tags
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        start = 128 + 4 + 12 * len(tags) + len(bodies)
        table += name + struct.pack(">II", start, len(body))
        bodies += body + bytes(-len(body) % 4)
    size = 128 + len(table) + len(bodies)
    head = struct.pack(">I4sI", size, bytes(4), 0x02100000) + kind + colours + between
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(65536 * v) for v in D50))
    return head.ljust(128, b"\0") + table + bodies


def _description():
    text = b"made here\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
