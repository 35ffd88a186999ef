"""Encrypt single values of a store (AES-256-GCM), each bound to what it is the value of.

A sealed value is: a mark that no protobuf message begins with, the key's id, a salt, a random nonce of 96 bits, and the
ciphertext with its tag. The associated data name the group, type and resource, so that a value can't be moved to
another resource, where other people could read it.

Values are not encrypted with the key itself but with one that is derived from it and the salt (HKDF-SHA256). A process
draws a new salt when it starts and after ``VALUES_PER_SALT_MAX`` values. So no key encrypts more than 2^24 values with
random nonces, where NIST SP 800-38D, section 8.3, allows 2^32.
"""

import os
from collections.abc import Sequence
from typing import Any

from xds.store.errors import UnreadableError
from xds.store.keys import KEY_BYTES, KeyRing, StoreKey

MARK = b"\0xds\x01"
"""Begins every sealed value. Its first byte is the tag of field 0, which protobuf's wire format does not allow."""
_ID_BYTES, _SALT_BYTES, _NONCE_BYTES = 8, 16, 12
_ID_AT = len(MARK)
_SALT_AT = _ID_AT + _ID_BYTES
_NONCE_AT = _SALT_AT + _SALT_BYTES
_TEXT_AT = _NONCE_AT + _NONCE_BYTES
_TAG_BYTES = 16
OVERHEAD_BYTES = _TEXT_AT + _TAG_BYTES
VALUES_PER_SALT_MAX = 2**24
_DERIVED_MAX = 4_096


class MissingKeyError(UnreadableError):
    """A value was encrypted with a key that is not among the given ones; ``key_id`` names it."""

    def __init__(self, key_id: str, given: Sequence[str], what: str) -> None:
        have = f"the given keys are {', '.join(given)}" if given else "no key is given"
        super().__init__(
            f"{what} is encrypted with the key {key_id}, and {have}: add that key to store.key_files, or to the output "
            "of store.key_command"
        )
        self.key_id = key_id


def key_id_of(value: bytes) -> str:
    """Return the id of the key that a value is encrypted with, "" for a value in plain."""
    return value[_ID_AT:_SALT_AT].hex() if is_sealed(value) else ""


def is_sealed(value: bytes) -> bool:
    """Return whether a value is encrypted. The digest of a change is too short to be taken for such a value."""
    return value.startswith(MARK) and len(value) >= OVERHEAD_BYTES


class Sealer:
    """Seals values with the first key of a ring, and opens those of all its keys. Can be used by several threads."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self._keys = {key.id: key for key in ring.keys}
        self._derived: dict[tuple[str, bytes], Any] = {}
        self._salt = b""
        self._sealed = 0

    @property
    def is_on(self) -> bool:
        """Whether there is a key, so that values are encrypted."""
        return bool(self.ring.keys)

    def seal(self, plain: bytes, *context: str) -> bytes:
        """Encrypt a value; ``context`` says what it is the value of."""
        if not self._salt or self._sealed >= VALUES_PER_SALT_MAX:
            self._salt, self._sealed = os.urandom(_SALT_BYTES), 0
        self._sealed += 1
        key, salt, nonce = self.ring.keys[0], self._salt, os.urandom(_NONCE_BYTES)
        header = MARK + bytes.fromhex(key.id) + salt + nonce
        sealed: bytes = self._cipher(key, salt).encrypt(nonce, plain, _associated(context))
        return header + sealed

    def open(self, value: bytes, *context: str) -> bytes:
        """Return a value in plain. Raises MissingKeyError, and UnreadableError if it is damaged or was moved."""
        if not is_sealed(value):
            return value
        key = self._keys.get(key_id_of(value))
        if key is None:
            raise MissingKeyError(key_id_of(value), self.ring.ids, _name(context))
        from cryptography.exceptions import InvalidTag

        cipher = self._cipher(key, value[_SALT_AT:_NONCE_AT])
        try:
            plain: bytes = cipher.decrypt(value[_NONCE_AT:_TEXT_AT], value[_TEXT_AT:], _associated(context))
        except (InvalidTag, ValueError):
            raise UnreadableError(
                f"{_name(context)} can't be decrypted with its key {key.id}: it was damaged, or is the value of "
                "something else; restore a backup"
            ) from None
        return plain

    def _cipher(self, key: StoreKey, salt: bytes) -> Any:
        cipher = self._derived.get((key.id, salt))
        if cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF

            hkdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"xds store value")
            cipher = AESGCM(hkdf.derive(key.secret))
            if len(self._derived) >= _DERIVED_MAX:
                self._derived.clear()
            self._derived[key.id, salt] = cipher
        return cipher


def _associated(context: Sequence[str]) -> bytes:
    encoded = [part.encode() for part in context]
    return MARK + b"".join(len(part).to_bytes(4) + part for part in encoded)


def _name(context: Sequence[str]) -> str:
    kind, *rest = context
    if kind == "value":
        group, type_url, name = rest
        return f"{type_url.rpartition('.')[2]} {name!r} of the group {group!r}"
    return f"the change {rest[0]!r}"
