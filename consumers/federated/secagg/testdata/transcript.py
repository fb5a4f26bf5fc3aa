"""Reads transcript.json by docs/federated-wire.md alone, and recomputes it: a second
implementation of the protocol. Exits with an error at the first difference."""
import hashlib
import json
import struct
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

P = b"penstock-secagg-v1"
t = json.load(open(sys.argv[1]))
H = lambda b: hashlib.sha256(b).digest()
x = bytes.fromhex


def kdf(key, label, info, n):
    return HKDF(hashes.SHA256(), n, None, P + b" " + label + b"\0" + info).derive(key)


def same(what, got, want):
    if got != want:
        sys.exit(f"{what}: got {got!r}, want {want!r}")


# Signatures and the chain of records.
server = Ed25519PrivateKey.from_private_bytes(x(t["server_ed25519_seed"])).public_key()
clients = {c["name"]: c for c in t["clients"]}
identities = {n: Ed25519PrivateKey.from_private_bytes(x(c["ed25519_seed"])).public_key() for n, c in clients.items()}
records, sent = {}, {}
for m in t["messages"]:
    stage, sender, payload = m["stage"], m["sender"], x(m["payload"])
    after = bytes(32) if stage == 0 else records[stage - 1 if stage % 2 else stage - 2][0]
    text = lambda s: struct.pack("<H", len(s.encode())) + s.encode()
    signed = (P + b"\0" + bytes([stage]) + text(t["training"]) + text(sender) + struct.pack("<QI", t["round"], t["attempt"])
              + x(t["base"]) + after + H(payload))
    same("signed", signed, x(m["signed"]))
    same("hash", H(signed), x(m["hash"]))
    (identities[sender] if sender else server).verify(x(m["signature"]), signed)
    if sender:
        sent.setdefault(stage, {})[clients[sender]["index"]] = (H(signed), payload, x(m["signature"]))
    else:
        records[stage] = (H(signed), payload)
R = records[2][0]


def entries(b, size):
    (n,), at, out = struct.unpack_from("<H", b), 2, {}
    for _ in range(n):
        (index,) = struct.unpack_from("<H", b, at)
        out[index] = b[at + 2:at + 2 + size]
        at += 2 + size
    return out, b[at:]


# The roster, and what each client deals.
roster, rest = entries(records[2][1], 2432 + 64)
same("rest of roster", rest, b"")
keys = {i: e[:2432] for i, e in roster.items()}
members = sorted(keys)


class Pair:
    def __init__(self, b):
        self.x = X25519PrivateKey.from_private_bytes(b[:32])
        self.k = MLKEM768PrivateKey.from_seed_bytes(b[32:])

    def public(self):
        return self.x.public_key().public_bytes_raw() + self.k.public_key().public_bytes_raw()

    def classical(self, public):
        return self.x.exchange(X25519PublicKey.from_public_bytes(public[:32]))


def common(label, classical, quantum, maker, opener):
    return kdf(classical + quantum, label, R + H(keys[maker]) + H(keys[opener]), 32)


def promise(kind, owner, holder, share):
    return H(P + b" promise\0" + R + struct.pack("<BHH", kind, owner, holder) + share)


dealt = {}
for i, (_, b, _) in sent[3].items():
    d = {"seed": b[:32]}
    at = 32 + 32 * sum(j > i for j in members) + 16
    d["escrow"] = b[32:at]
    for j in members:
        to = {"promised": (b[at:at + 32], b[at + 32:at + 64])}
        at += 64
        if j != i:
            to["channel"], to["sealed"] = b[at:at + 1088], b[at + 1088:at + 1168]
            at += 1168
        if j > i:
            to["mask"] = b[at:at + 1088]
            at += 1088
        d[j] = to
    same("length of shares", at, len(b))
    dealt[i] = d

by_index = {c["index"]: c for c in t["clients"]}
channel = {i: Pair(x(c["channel_x25519_and_mlkem_seed"])) for i, c in by_index.items()}
masks = {i: Pair(kdf(x(c["root"]), b"mask keys", b"", 96)) for i, c in by_index.items()}
held = {}
for i in members:
    same("keys", channel[i].public() + masks[i].public(), keys[i])
    for j in members:
        if i == j:
            continue
        to = dealt[j][i]
        key = common(b"channel", channel[i].classical(keys[j][:1216]), channel[i].k.decapsulate(to["channel"]), j, i)
        plain = AESGCM(key).decrypt(bytes(12), to["sealed"], R)
        held[i, j] = (plain[:32], plain[32:])
        same("promises", tuple(promise(k + 1, j, i, held[i, j][k]) for k in (0, 1)), to["promised"])


# Shamir over GF(2^128).
def mul(a, b):
    z = 0
    for bit in range(127, -1, -1):
        z <<= 1
        if z >> 128:
            z ^= 1 << 128 | 0x87
        if b >> bit & 1:
            z ^= a
    return z


def inverse(a):
    z = 1
    for _ in range(127):
        a = mul(a, a)
        z = mul(z, a)
    return z


def recombine(shares):
    out = b""
    for half in (0, 16):
        s = 0
        for i, share in shares.items():
            w = 1
            for j in shares:
                if i != j:
                    w = mul(w, mul(j, inverse(i ^ j)))
            s ^= mul(w, int.from_bytes(share[half:half + 16], "big"))
        out += s.to_bytes(16, "big")
    return out


# The masks, and the sum without them.
def keystream(seed, n):
    b = Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:])).encryptor().update(bytes(4 * n))
    return struct.unpack(f"<{n}I", b)


def opened(owner, root):
    chosen = b"".join(dealt[owner][j]["mask"] for j in members if j > owner)
    plain = AESGCM(kdf(root, b"escrow", H(chosen), 32)).decrypt(bytes(12), dealt[owner]["escrow"], R)
    return {j: plain[32 * k:32 * k + 32] for k, j in enumerate(j for j in members if j > owner)}


def pair_seed(i, j, pair, root):
    """The mask of i and j, from what i knows."""
    quantum = opened(i, root)[j] if i < j else pair.k.decapsulate(dealt[j][i]["mask"])
    return common(b"mask", pair.classical(keys[j][1216:]), quantum, min(i, j), max(i, j))


shared, _ = entries(records[4][1], 32)
for i in shared:
    same("shared", shared[i], sent[3][i][0])
there, rest = entries(records[6][1], 32)
missing, rest = entries(rest, 0)
same("lists", (sorted([*there, *missing]), rest), (sorted(shared), b""))
ring = 1 << 32
total, n = None, 0
for i, (h, payload, _) in sent[5].items():
    same("vector", there[i], H(h))
    n, first = struct.unpack_from("<II", payload)
    v = list(struct.unpack(f"<{n}I", payload[8:]))
    total = v if total is None else [(a + b) % ring for a, b in zip(total, v)]
    # The same from the client's side.
    c = by_index[i]
    seeds = [x(c["seed"])] + [pair_seed(i, j, masks[i], x(c["root"])) for j in shared if j != i]
    same("mask seeds", [s.hex() for s in seeds], c["mask_seeds"])
    same("seed promise", promise(1, i, 0, seeds[0]), dealt[i]["seed"])
    plain = list(c["vector_without_masks"])
    for s, j in zip(seeds, [i] + [j for j in shared if j != i]):
        sign = -1 if j < i else 1
        plain = [(a + sign * b) % ring for a, b in zip(plain, keystream(s, n))]
    same("masked vector", plain, v)
    levels, clip = 2 ** t["encoding"]["Bits"] - 1, t["encoding"]["Clip"]
    for value, q in zip(c["values"], c["vector_without_masks"][1:]):
        exact = (max(-clip, min(clip, value)) + clip) * levels / (2 * clip)
        if abs(q / c["weight"] - exact) >= 1 + 1e-6:
            sys.exit(f"level of {value}: {q / c['weight']}, want {exact}")

agreed, _ = entries(records[8][1], 64)
same("confirmations", agreed, {i: sent[7][i][2] for i in agreed})
revealed = {}
for holder, (_, b, _) in sent[9].items():
    for owner, e in entries(b, 33)[0].items():
        kind = 1 if owner in there else 2
        same("kind", e[0], kind)
        same("promise", promise(kind, owner, holder, e[1:]), dealt[owner][holder]["promised"][kind - 1])
        if owner != holder:
            same("share", e[1:], held[holder, owner][kind - 1])
        revealed.setdefault(owner, {})[holder] = e[1:]
for owner in shared:
    secret = recombine(revealed[owner])
    c = by_index[owner]
    same("secret", secret.hex(), c["seed"] if owner in there else c["root"])
    if owner in there:
        total = [(a - b) % ring for a, b in zip(total, keystream(secret, n))]
        continue
    pair = Pair(kdf(secret, b"mask keys", b"", 96))
    for j in there:
        sign = 1 if owner < j else -1
        total = [(a + sign * b) % ring for a, b in zip(total, keystream(pair_seed(owner, j, pair, secret), n))]
same("sum", total, t["sum"])
same("weight", total[0], t["sum_of_weights"])
same("mean", [round(q / total[0] * (2 * clip / levels) - clip, 12) for q in total[1:]], [round(v, 12) for v in t["mean"]])
print(f"{len(t['messages'])} messages, {len(there)} vectors, {len(missing)} missing: as the transcript has it")
