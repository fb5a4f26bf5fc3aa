"""A client of secure aggregation: the messages in and out of one attempt at a round.
docs/federated-wire.md has every byte, and why it is so is there and in record 10.

It knows no broker and no clock. Needs cryptography 50 or newer, for ML-KEM.
"""

import hashlib
import math
import os
import struct
from dataclasses import dataclass, replace

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from . import discrete

PROTOCOL = b"penstock-secagg-v1"
STAGES = ["open", "keys", "roster", "shares", "shared", "masked", "survived", "confirm", "agreed", "unmask", "abort", None, "closed"]
MAX_CHUNK = 131072  # elements of a vector in one message
MAX_CLIENTS, MAX_ELEMENTS = 256, 1 << 28
_ZEROS = bytes(32)
_PAIR, _CIPHERTEXT, _SEALED = 1216, 1088, 80


class Refused(Exception):
    """A message that does not count; the client is as it was."""


class SitOut(Refused):
    """The attempt goes on without this client."""


@dataclass(frozen=True)
class Message:
    """A message as its schema has it."""

    stage: str
    training: str
    round: int
    attempt: int
    base: bytes
    sender: str
    after: bytes
    payload: bytes
    signature: bytes = b""

    def signed(self):
        return (
            PROTOCOL + b"\0" + bytes([STAGES.index(self.stage)]) + _text(self.training) + _text(self.sender)
            + struct.pack("<QI", self.round, self.attempt) + self.base + self.after + _hash(self.payload)
        )

    def hash(self):
        return _hash(self.signed())

    def check(self, key, whose):
        try:
            key.verify(self.signature, self.signed())
        except InvalidSignature:
            raise Refused(f"bad-signature: {self.stage}: expected a signature of {whose}") from None


@dataclass(frozen=True)
class Settings:
    """What open says of a round."""

    threshold: int
    elements: int
    bits: int
    clip: float
    max_weight: int
    clients: list  # of (name, 32 bytes of Ed25519), in the order of their indexes, from 1
    bound: int = 0  # of the norm of the vector's integers, where it gets noise
    sigma: int = 0  # of that noise, a discrete Gaussian

    @classmethod
    def read(cls, payload):
        r = _Reader(payload)
        threshold, elements, bits, clip, max_weight, n = r.unpack("<HIBdIH")
        clients = [(_utf8(r.take(r.unpack("<B")[0])), r.take(32)) for _ in range(n)]
        bound, sigma = r.unpack("<II") if bits == 0 else (0, 0)
        r.end()
        if bits == 0:  # with noise: nothing may pass the bound, nor the sum the ring
            fits = (
                max_weight == 1 and 16 * math.sqrt(elements) <= bound <= 1 << 24 and 1 <= sigma <= 1 << 27
                and n * bound + 12 * sigma * math.sqrt(n) < 1 << 31
            )
        else:
            fits = 1 <= bits <= 31 and max_weight >= 1 and n * max_weight * (2**bits - 1) < 1 << 32
        names = [name.encode() for name, _ in clients]
        if not (
            2 <= n <= MAX_CLIENTS and 2 * n // 3 + 1 <= threshold <= n and 1 <= elements <= MAX_ELEMENTS and fits
            and 0 < clip <= 3.4028234663852886e38 and all(a < b for a, b in zip(names, names[1:]))
        ):
            raise SitOut("bad-settings: open: expected a threshold, an encoding and clients that keep an update unseen")
        return cls(threshold, elements, bits, clip, max_weight, clients, bound, sigma)

    def scale(self):
        """By how much values grow on the way to integers with noise."""
        return (self.bound - math.sqrt(self.elements) - 1) / self.clip

    def keeps(self, privacy):
        """Whether the noise is what a model's privacy bills for."""
        k = privacy["shares"]
        if k == 0 or self.sigma == 0 or self.clip != privacy["clip"] or k > self.threshold:
            return False
        tau = 10 * sum(math.exp(-2 * (math.pi * self.sigma) ** 2 * j / (j + 1)) for j in range(1, k))
        return 1 / (self.bound / (self.sigma * math.sqrt(k)) + tau * math.sqrt(self.elements)) >= privacy["noise"]

    def exact(self, values):
        """What is rounded to integers and gets noise: the values, clipped to a norm, in
        the unit that keeps the integers' norm within the bound however they are rounded."""
        v = np.asarray(values, "<f8")
        norm = math.sqrt(float(np.sum(v * v)))
        return v * (self.scale() * min(1.0, self.clip / max(norm, self.clip)))

    def encode(self, values, weight):
        """The vector without masks: weight, and weight times the level of each value; or 1
        and the integers of values with noise."""
        if self.sigma:
            exact = self.exact(values)
            low = np.floor(exact)
            whole = low.astype("<i8") + (_fractions(len(low)) < exact - low) + discrete.gaussian(self.sigma, len(low))
            return np.concatenate(([1], whole & 0xFFFFFFFF)).astype("<u4")
        levels = float(2**self.bits - 1)
        exact = (np.clip(np.asarray(values, "<f8"), -self.clip, self.clip) + self.clip) * (levels / (2 * self.clip))
        low = np.floor(exact)
        level = np.minimum(low + (_fractions(len(low)) < exact - low), levels).astype("<u8")
        return np.concatenate(([weight], level * np.uint64(weight))).astype("<u4")


class Client:
    """Takes part in the attempt that a record of the stage open announces.

    key is the client's Ed25519 private key, server the server's public one, and trusted
    the raw public keys, by name, of those in whose sum it is willing to be. kept is the
    last state of this client, or None; Refused says why it does not take part.

    Before anything that it returns is sent, state has to be kept. With it a client that
    is started again sends the same bytes: two vectors under the same masks would give
    away their difference.
    """

    def __init__(self, name, key, server, trusted, opening, kept=None):
        self.name, self._key, self._server, self._open = name, key, server, opening
        if opening.stage != "open" or opening.sender or opening.after != _ZEROS:
            raise Refused("wrong-stage: expected the server's record that opens an attempt")
        opening.check(server, "the server's key")
        self.settings = Settings.read(opening.payload)
        for other, public in self.settings.clients:
            if trusted.get(other) != public:
                raise SitOut(f"bad-settings: open: client {other!r} with its key is not one that this client trusts")
        names = [n for n, _ in self.settings.clients]
        if name not in names or self.settings.clients[names.index(name)][1] != key.public_key().public_bytes_raw():
            raise SitOut(f"not-ours: open: it does not expect client {name!r} with this key")
        self.index = names.index(name) + 1
        self.state = dict(kept) if kept and kept["open"] == opening.hash() else {"open": opening.hash(), "entropy": os.urandom(32)}
        entropy = self.state["entropy"]
        self._root, self._seed = _kdf(entropy, "root", b"", 32), _kdf(entropy, "self mask", b"", 32)
        self._channel = _Pair(_kdf(entropy, "channel keys", b"", 96))
        self._masks = _Pair(_kdf(self._root, "mask keys", b"", 96))
        self._roster = self._shared = self._survived = None
        self._keys, self._listed, self._got, self._held, self._there = {}, {}, {}, {}, []

    def hello(self):
        """The first message."""
        return self._message("keys", self._open.hash(), self._public())

    def receive(self, m):
        """Takes the server's next record, and returns the messages that answer it."""
        answer = {"roster": self._on_roster, "shared": self._on_shared, "survived": self._on_survived, "agreed": self._on_agreed}
        if m.stage not in answer:
            raise Refused(f"wrong-stage: {m.stage}: expected a record of this attempt that a client answers")
        return answer[m.stage](m)

    def _public(self):
        return self._channel.public() + self._masks.public()

    def _message(self, stage, after, payload):
        m = replace(self._open, stage=stage, sender=self.name, after=after, payload=payload, signature=b"")
        return replace(m, signature=self._key.sign(m.signed()))

    def _next(self, m, after):
        """Checks that m is the server's record of this attempt after another one."""
        o = self._open
        if m.sender or (m.training, m.round, m.attempt, m.base) != (o.training, o.round, o.attempt, o.base):
            raise Refused(f"wrong-round: {m.stage}: expected round {o.round}, attempt {o.attempt}")
        if after is None or m.after != after.hash():
            raise Refused(f"wrong-roster: {m.stage}: it does not go on from the record before it")
        m.check(self._server, "the server's key")
        kept = self.state.get(m.stage)
        if kept is not None and kept != m.hash():
            raise Refused(f"second-list: {m.stage}: there was another one in this attempt")

    def _members(self, m, entries):
        """Checks that a list has enough members, and that there are such clients."""
        if len(entries) < self.settings.threshold or max(entries) > len(self.settings.clients):
            raise Refused(f"bad-list: {m.stage}: expected {self.settings.threshold} or more of {len(self.settings.clients)} clients")
        return entries

    def _identity(self, index):
        name, public = self.settings.clients[index - 1]
        return name, Ed25519PublicKey.from_public_bytes(public)

    def _on_roster(self, m):
        self._next(m, self._open)
        r = _Reader(m.payload)
        entries = self._members(m, r.entries(2 * _PAIR + 64))
        r.end()
        keys = {}
        for index, data in entries.items():
            name, identity = self._identity(index)
            sent = replace(self._open, stage="keys", sender=name, after=self._open.hash(), payload=data[:-64], signature=data[-64:])
            sent.check(identity, f"client {name!r}")
            keys[index] = data[:-64]
        if keys.get(self.index) != self._public():
            raise SitOut("not-ours: roster: it does not have the keys of this client")
        self._roster, self._keys = m, keys
        if "shares" not in self.state:
            self.state |= {"roster": m.hash(), "shares": self._deal()}
        return [self._message("shares", m.hash(), self.state["shares"])]

    def _common(self, label, classical, quantum, maker, opener):
        about = self._roster.hash() + _hash(self._keys[maker]) + _hash(self._keys[opener])
        return _kdf(classical + quantum, label, about, 32)

    def _promise(self, kind, owner, holder, share):
        return _hash(PROTOCOL + b" promise\0" + self._roster.hash() + struct.pack("<BHH", kind, owner, holder) + share)

    def _deal(self):
        """The payload of shares."""
        roster, members = self._roster.hash(), b""
        chosen, ciphertexts = b"", b""
        for j in sorted(self._keys):
            shares = self._share(self._seed, "seed", j), self._share(self._root, "root", j)
            members += b"".join(self._promise(kind, self.index, j, s) for kind, s in enumerate(shares, 1))
            if j != self.index:
                quantum, ciphertext = _encapsulate(self._keys[j][:_PAIR])
                key = self._common("channel", self._channel.classical(self._keys[j][:_PAIR]), quantum, self.index, j)
                members += ciphertext + AESGCM(key).encrypt(bytes(12), b"".join(shares), roster)
            if j > self.index:
                quantum, ciphertext = _encapsulate(self._keys[j][_PAIR:])
                members += ciphertext
                chosen, ciphertexts = chosen + quantum, ciphertexts + ciphertext
        escrow = AESGCM(_kdf(self._root, "escrow", _hash(ciphertexts), 32)).encrypt(bytes(12), chosen, roster)
        return self._promise(1, self.index, 0, self._seed) + escrow + members

    def _share(self, secret, what, j):
        """Member j's share of a secret: its two blocks are the constants of two
        polynomials, whose values at j these are."""
        t = self.settings.threshold
        drawn = _kdf(self.state["entropy"], f"coefficients of {what}", b"", 32)
        more = _keystream(drawn, 8 * (t - 1)).tobytes()
        out = b""
        for half in (0, 16):
            value = 0
            for at in range(32 * (t - 2) + half, -1, -32):
                value = _times(value, j) ^ int.from_bytes(more[at : at + 16], "big")
            value = _times(value, j) ^ int.from_bytes(secret[half : half + 16], "big")
            out += value.to_bytes(16, "big")
        return out

    def _on_shared(self, m):
        self._next(m, self._roster)
        if self._shared is not None:
            if m.hash() != self._shared.hash():
                raise Refused("second-list: shared: there was another one in this attempt")
            return []
        r = _Reader(m.payload)
        listed = self._members(m, r.entries(32))
        r.end()
        if not set(listed) <= set(self._keys):
            raise Refused("bad-list: shared: it has clients that the roster has not")
        if listed.get(self.index) != self._message("shares", self._roster.hash(), self.state["shares"]).hash():
            raise SitOut("not-ours: shared: it does not have the shares of this client")
        self._shared, self._listed = m, listed
        self._take(self.index, self.state["shares"])
        return []

    def take(self, m):
        """Takes the shares of another client that is on the list of shared."""
        if self._shared is None or m.stage != "shares" or m.after != self._roster.hash():
            raise Refused("wrong-stage: expected shares of a client on the list")
        for index, want in self._listed.items():
            name, identity = self._identity(index)
            if name != m.sender:
                continue
            if index in self._got:
                raise Refused(f"duplicate: shares of {name!r}: the first one counts")
            if m.hash() != want:
                raise Refused(f"late: shares of {name!r}: it is not the one on the server's list")
            m.check(identity, f"client {name!r}")
            self._take(index, m.payload)
            return
        raise Refused("late: shares: its sender is not on the server's list")

    def roster(self):
        """The hash of the record that shares are made under."""
        return self._roster.hash()

    def missing(self):
        """Whether shares are needed before a vector can be masked."""
        return self._shared is not None and len(self._got) < len(self._listed)

    def _take(self, index, payload):
        r, dealt = _Reader(payload), {}
        r.take(32)  # the promise of the seed, for the server
        dealt["escrow"] = r.take(32 * sum(j > index for j in self._keys) + 16)
        for j in sorted(self._keys):
            dealt[j] = {"promised": (r.take(32), r.take(32))}
            if j != index:
                dealt[j] |= {"channel": r.take(_CIPHERTEXT), "sealed": r.take(_SEALED)}
            if j > index:
                dealt[j]["mask"] = r.take(_CIPHERTEXT)
        r.end()
        self._got[index] = dealt
        if index == self.index:
            return
        to = dealt[self.index]
        quantum = self._channel.k.decapsulate(to["channel"])
        key = self._common("channel", self._channel.classical(self._keys[index][:_PAIR]), quantum, index, self.index)
        try:
            plain = AESGCM(key).decrypt(bytes(12), to["sealed"], self._roster.hash())
        except InvalidTag:
            raise Refused(f"bad-share: of client {index}: it cannot be opened") from None
        shares = plain[:32], plain[32:]
        if tuple(self._promise(k, index, self.index, s) for k, s in enumerate(shares, 1)) != to["promised"]:
            raise Refused(f"bad-share: of client {index}: it is not the one promised")
        self._held[index] = shares

    def masked(self):
        """Whether there is a vector under masks, which mask returns."""
        return "vector" in self.state

    def mask(self, values, weight):
        """The vector under masks, in parts; the same again, whatever is passed then."""
        if self._shared is None or self.missing():
            raise Refused("wrong-stage: expected shared, and the shares of all on it, first")
        if not self.masked():
            if len(values) != self.settings.elements or not 1 <= weight <= self.settings.max_weight or not np.isfinite(values).all():
                raise ValueError(f"expected {self.settings.elements} finite values and a weight from 1 to {self.settings.max_weight}")
            vector = self.settings.encode(values, weight)
            for seed, minus in self._mask_seeds():
                stream = _keystream(seed, len(vector))
                vector = vector - stream if minus else vector + stream
            self.state |= {"shared": self._shared.hash(), "vector": vector.astype("<u4").tobytes()}
        return self._parts()

    def _parts(self):
        vector = self.state["vector"]
        whole = len(vector) // 4
        return [
            self._message("masked", self._shared.hash(), struct.pack("<II", whole, at) + vector[4 * at : 4 * min(at + MAX_CHUNK, whole)])
            for at in range(0, whole, MAX_CHUNK)
        ]

    def _mask_seeds(self):
        own = self._got[self.index]
        higher = [j for j in sorted(self._keys) if j > self.index]
        key = _kdf(self._root, "escrow", _hash(b"".join(own[j]["mask"] for j in higher)), 32)
        chosen = AESGCM(key).decrypt(bytes(12), own["escrow"], self._roster.hash())
        yield self._seed, False
        for j in self._listed:
            if j == self.index:
                continue
            if j > self.index:
                at = 32 * higher.index(j)
                quantum = chosen[at : at + 32]
            else:
                quantum = self._masks.k.decapsulate(self._got[j][self.index]["mask"])
            classical = self._masks.classical(self._keys[j][_PAIR:])
            yield self._common("mask", classical, quantum, min(self.index, j), max(self.index, j)), j < self.index

    def _on_survived(self, m):
        if not self.masked() or self._shared is None or self.missing():
            raise Refused("wrong-stage: survived: expected this client's vector before it")
        self._next(m, self._shared)
        r = _Reader(m.payload)
        there = self._members(m, r.entries(32))
        gone = r.entries(0)
        r.end()
        if sorted([*there, *gone]) != sorted(self._listed):
            raise Refused("bad-list: survived: expected each client of the list before once, as there or as missing")
        if there.get(self.index) != _hash(b"".join(part.hash() for part in self._parts())):
            raise SitOut("not-ours: survived: it does not have the vector of this client")
        self._survived, self._there = m, sorted(there)
        self.state["survived"] = m.hash()
        return [self._message("confirm", m.hash(), b"")]

    def _on_agreed(self, m):
        self._next(m, self._survived)
        r = _Reader(m.payload)
        signatures = self._members(m, r.entries(64))
        r.end()
        for index, signature in signatures.items():
            name, identity = self._identity(index)
            if index not in self._there:
                raise Refused(f"bad-list: agreed: client {name!r} is missing")
            sent = replace(self._open, stage="confirm", sender=name, after=self._survived.hash(), payload=b"", signature=signature)
            sent.check(identity, f"client {name!r}")
        own = self._share(self._seed, "seed", self.index), self._share(self._root, "root", self.index)
        given = []
        for j in sorted(self._listed):
            shares = own if j == self.index else self._held.get(j)
            if shares is not None:
                kind = 1 if j in self._there else 2
                given.append(struct.pack("<HB", j, kind) + shares[kind - 1])
        return [self._message("unmask", m.hash(), struct.pack("<H", len(given)) + b"".join(given))]


class _Pair:
    """A hybrid key pair."""

    def __init__(self, b):
        self.x, self.k = X25519PrivateKey.from_private_bytes(b[:32]), MLKEM768PrivateKey.from_seed_bytes(b[32:])

    def public(self):
        return self.x.public_key().public_bytes_raw() + self.k.public_key().public_bytes_raw()

    def classical(self, public):
        try:
            return self.x.exchange(X25519PublicKey.from_public_bytes(public[:32]))  # which refuses zeros
        except ValueError as e:
            raise Refused(f"malformed: a key that nothing can be agreed with: {e}") from e


def _encapsulate(public):
    try:
        return MLKEM768PublicKey.from_public_bytes(public[32:]).encapsulate()
    except ValueError as e:
        raise Refused(f"malformed: a key that is none: {e}") from e


def _fractions(n):
    """n numbers from 0 to less than 1, of which each is as likely as another."""
    return (np.frombuffer(os.urandom(8 * n), "<u8") >> np.uint64(11)).astype("<f8") * 2.0**-53


def _kdf(key, label, info, n):
    return HKDF(hashes.SHA256(), n, None, PROTOCOL + b" " + label.encode() + b"\0" + info).derive(key)


def _keystream(seed, n):
    encryptor = Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:])).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * n)), "<u4")


def _times(a, j):
    """a times a small j, in GF(2^128)."""
    z = 0
    for bit in range(j.bit_length() - 1, -1, -1):
        z <<= 1
        if z >> 128:
            z ^= 1 << 128 | 0x87
        if j >> bit & 1:
            z ^= a
    return z


def _hash(b):
    return hashlib.sha256(b).digest()


def _text(s):
    b = s.encode()
    return struct.pack("<H", len(b)) + b


def _utf8(b):
    try:
        return b.decode()
    except UnicodeDecodeError:
        raise Refused("malformed: expected a name in UTF-8") from None


class _Reader:
    """Reads a payload, which may be anyone's bytes."""

    def __init__(self, b):
        self._b, self._at = b, 0

    def take(self, n):
        if n > len(self._b) - self._at:
            raise Refused(f"malformed: expected {n} bytes after {self._at}, found {len(self._b) - self._at}")
        self._at += n
        return self._b[self._at - n : self._at]

    def unpack(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def entries(self, size):
        """A list: what was sent, by index, in ascending order."""
        out, last = {}, 0
        for _ in range(self.unpack("<H")[0]):
            (index,) = self.unpack("<H")
            if index <= last:
                raise Refused(f"malformed: expected a list in order, found {index} after {last}")
            out[index], last = self.take(size), index
        return out

    def end(self):
        if self._at != len(self._b):
            raise Refused(f"malformed: expected the end after {self._at} bytes, found {len(self._b) - self._at} more")
