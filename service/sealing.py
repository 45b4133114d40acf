"""Files sealed together with a public key, which the service cannot open again.

A ZIP in one of libsodium's sealed boxes (X25519, XSalsa20 and Poly1305), as any libsodium opens.
PyNaCl is imported where something is sealed or opened, and nowhere else.
"""

import base64
import binascii
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["check_public_key", "make_key", "open_sealed", "seal"]


def check_public_key(text: str | None) -> str | None:
    """Passes a public key as `codefend quarantine keygen` prints it: 32 bytes in base64.

    Raises:
        ValueError: It is none, or PyNaCl is not installed.
    """
    if text is None:
        return None
    try:
        from nacl.public import PublicKey
    except ImportError as error:
        msg = "a quarantine needs: pip install 'codefend[quarantine]'"
        raise ValueError(msg) from error
    try:
        PublicKey(base64.b64decode(text, validate=True))
    except Exception as error:  # PyNaCl's own, where the length is wrong
        msg = "it is no public key; codefend quarantine keygen FILE makes one"
        raise ValueError(msg) from error
    return text


def make_key(file: Path) -> str:
    """Writes a new private key, readable by its owner alone; returns the public one in base64.

    Raises:
        FileExistsError: There is such a file: what it opens would be lost.
        ImportError: PyNaCl is not installed.
    """
    from nacl.public import PrivateKey

    key = PrivateKey.generate()
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as written:
        written.write(base64.b64encode(bytes(key)) + b"\n")
    return base64.b64encode(bytes(key.public_key)).decode()


def seal(files: Mapping[str, bytes], public_key: str) -> bytes:
    """Seals files, each by its name, for whoever has the private key.

    Args:
        files: Content by name.
        public_key: As `check_public_key` passes it.
    """
    from nacl.public import PublicKey, SealedBox

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: pictures are compressed already
        for name, content in files.items():
            archive.writestr(name, content)
    key = PublicKey(base64.b64decode(public_key))
    return bytes(SealedBox(key).encrypt(buffer.getvalue()))


def open_sealed(sealed: bytes, private_key: Path) -> dict[str, bytes]:
    """What was sealed, by name.

    Args:
        sealed: As `seal` made it.
        private_key: The file that `make_key` wrote.

    Raises:
        ValueError: The key is none, or not the one that it was sealed for; or it was altered.
        ImportError: PyNaCl is not installed.
    """
    from nacl.exceptions import CryptoError
    from nacl.public import PrivateKey, SealedBox

    try:
        key = PrivateKey(base64.b64decode(private_key.read_bytes().strip(), validate=True))
        opened = SealedBox(key).decrypt(sealed)
    except (CryptoError, binascii.Error) as error:
        msg = "the key does not open it: it was sealed for another one, or altered"
        raise ValueError(msg) from error
    with zipfile.ZipFile(io.BytesIO(opened)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
