"""Compares clients/python with vectors.json, and prints a signature of its own of each."""

import json
import sys
import tempfile

from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from penstock import trust

KINDS = {"ed25519": ed25519.Ed25519PrivateKey.from_private_bytes, "ml-dsa-65": mldsa.MLDSA65PrivateKey.from_seed_bytes}

for v in json.load(open(sys.argv[1], encoding="utf-8")):
    tensors = [dict(t, data=bytes.fromhex(t["data"])) for t in v["parameters"]]
    assert trust.tensors_hash(tensors).hex() == v["parameters_hash"], trust.tensors_hash(tensors).hex()
    text = trust.update_text(v["topic"], dict(v, parameters=tensors, base=bytes.fromhex(v["base"])))
    assert text.hex() == v["signed"], text.hex()
    private = KINDS[v["algorithm"]](bytes.fromhex(v["private_key_seed"]))
    public = s.load_der_public_key(bytes.fromhex(v["public_key_pkix"]))
    assert public == private.public_key()
    public.verify(bytes.fromhex(v["signature"]), text)
    with tempfile.NamedTemporaryFile() as f:
        f.write(private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
        f.flush()
        key = trust.Key(f.name)
    print(key.sign(text).hex())
