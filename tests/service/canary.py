"""A purifier whose work can be recognised: it signs what every single image says about itself.

An image of the canary says, in black and white blocks that survive JPEG, whose it is and which of
their images. The engine adds a signature of that and of a number that it uses once. Nobody else
knows the key, so a signature proves that this purification is this image's own.
"""

import hashlib
import hmac
import json
import secrets

import numpy as np

from codefend.service.stages import EngineFacts
from tests.service.pictures import picture

IMPORT_PATH = "tests.service.canary:load_engine"
BLOCK_PX = 8
WIDTH_PX = 64
NUM_BITS = 24
# The signature follows in a row of its own, below the blocks; three bytes a pixel.
SIGNATURE_ROW = BLOCK_PX * NUM_BITS // (WIDTH_PX // BLOCK_PX)
NONCE_BYTES = 6
SIGNATURE_BYTES = 18
MIN_HEIGHT_PX = SIGNATURE_ROW + 1


def canary(owner, number, height=40, width=WIDTH_PX):
    """Pixels of the image `number` of `owner` (16 bits), (height, width, 3) uint8."""
    pixels = picture(height, width, seed=owner * 256 + number).copy()
    bits = [(owner << 8 | number) >> index & 1 for index in range(NUM_BITS)]
    blocks = np.kron(np.reshape(bits, (-1, WIDTH_PX // BLOCK_PX)), np.ones((BLOCK_PX, BLOCK_PX)))
    pixels[:SIGNATURE_ROW, :WIDTH_PX] = np.uint8(255 * blocks)[..., None]
    return pixels


def read_canary(pixels):
    """Owner and number."""
    blocks = pixels[:SIGNATURE_ROW, :WIDTH_PX].mean(axis=2) > 127
    bits = blocks[BLOCK_PX // 2 :: BLOCK_PX, BLOCK_PX // 2 :: BLOCK_PX].ravel()
    value = sum(int(bit) << index for index, bit in enumerate(bits))
    return value >> 8, value & 255


def read_signature(pixels, key):
    """The number used once, if the signature is right; None if it is not."""
    row = pixels[SIGNATURE_ROW].tobytes()
    nonce, signature = row[:NONCE_BYTES], row[NONCE_BYTES : NONCE_BYTES + SIGNATURE_BYTES]
    is_right = hmac.compare_digest(signature, sign(read_canary(pixels), nonce, key))
    return nonce if is_right else None


def sign(identity, nonce, key):
    message = repr(identity).encode() + nonce
    return hmac.digest(key.encode(), message, hashlib.sha256)[:SIGNATURE_BYTES]


class SigningEngine:
    facts = EngineFacts("canary", "1", steps=1, noise_level=0.1, device="cpu")

    def __init__(self, key):
        self._key = key

    def suspect(self, upload, purified):
        """Nothing: marks are what it is for."""
        return None

    def purify(self, images, strength=None):
        purified = images.copy()
        for pixels in purified:
            nonce = secrets.token_bytes(NONCE_BYTES)
            mark = nonce + sign(read_canary(pixels), nonce, self._key)
            pixels[SIGNATURE_ROW, : len(mark) // 3] = np.frombuffer(mark, np.uint8).reshape(-1, 3)
        return purified


def load_engine(options):
    return SigningEngine(**json.loads(options.purifier))
