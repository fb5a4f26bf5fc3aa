"""Signatures of updates: docs/federated-wire.md, byte by byte. Needs cryptography."""

import hashlib
import struct


class Key:
    """A private key, Ed25519 or ML-DSA-65, of a file as penstock federated keys makes it."""

    def __init__(self, path):
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        with open(path, "rb") as f:
            self._key = load_pem_private_key(f.read(), None)
        if type(self._key).__name__.lstrip("_") not in ("Ed25519PrivateKey", "MLDSA65PrivateKey"):
            raise ValueError(f"{path}: expected a key of Ed25519 or ML-DSA-65")

    def sign(self, text):
        return self._key.sign(text)


def tensors_hash(tensors):
    """The SHA-256 of tensors as the schema has them; of a model's it is its hash."""
    h = hashlib.sha256()
    for t in tensors:
        for text in (t["name"].encode(), t["dtype"].encode()):
            h.update(struct.pack("<Q", len(text)) + text)
        h.update(struct.pack(f"<{1 + len(t['shape'])}Q", len(t["shape"]), *t["shape"]))
        if t["dtype"] != "float32":
            h.update(struct.pack("<Q", len(t["data"])))
        h.update(t["data"])
    return h.digest()


def update_text(topic, value):
    """What is signed of an update as its schema has it, on its way to a topic."""
    return (
        b"penstock-update-v1\0" + _text(topic) + _text(value["client"]) + struct.pack("<q", value["round"]) + value["base"]
        + struct.pack("<qdq", value["samples"], value["loss"], value["steps"]) + tensors_hash(value["parameters"])
    )


def _text(s):
    b = s.encode()
    return struct.pack("<I", len(b)) + b
