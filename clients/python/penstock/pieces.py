"""Messages that take several records, because their numbers are many: the last record
is the message, its tensors without their data; those before it hold numbers alone."""

import hashlib

SIZE = 512 << 10  # of the numbers in a record: half of what brokers carry
LIMIT = 64 << 30  # of the numbers in a message that is read


def split(value, size=SIZE):
    """Yields the values of the records of a message."""
    entries = [t for name in ("parameters", "state") for t in value.get(name, [])]
    total = sum(len(t["data"]) for t in entries)
    if total <= size:
        yield value
        return
    data = b"".join(t["data"] for t in entries)
    bare = {**value, **{name: [{**t, "data": b""} for t in value[name]] for name in ("parameters", "state") if name in value}}
    empty = {name: [] if isinstance(v, list) else v for name, v in value.items()}
    count, digest = -(-total // size), hashlib.sha256(data).digest()
    for i in range(count):
        last = i == count - 1
        piece = {
            "index": i,
            "count": count,
            "hash": digest,
            "sizes": [len(t["data"]) for t in entries] if last else [],
            "data": data[i * size : (i + 1) * size],
        }
        yield {**(bare if last else empty), "piece": piece}


class Joiner:
    """Puts messages together, of one sender, whose records are given in their order."""

    def __init__(self):
        self._about, self._have, self._data = None, 0, bytearray()

    def add(self, value):
        """The message that ends with this record, or None if it has only numbers of one
        to come. ValueError says what is wrong with it."""
        piece = value.get("piece")
        if piece is None:
            return value
        index, count, about = piece["index"], piece["count"], (piece["hash"], piece["count"])
        if not 0 <= index < count:
            raise ValueError(f"at /piece/index: expected a number below {count}, found {index}")
        if index == 0 and self._about != about:
            self._about, self._have, self._data = about, 0, bytearray()
        if self._about == about and index == self._have and len(self._data) + len(piece["data"]) <= LIMIT:
            self._data += piece["data"]
            self._have += 1
        if index < count - 1:
            return None
        if self._about != about or self._have < count:
            raise ValueError(f"expected {index} records of this message before its last one, found {self._have if self._about == about else 0}")
        data = memoryview(bytes(self._data))
        self._about, self._have, self._data = None, 0, bytearray()
        if hashlib.sha256(data).digest() != piece["hash"]:
            raise ValueError(f"expected pieces with hash {piece['hash'].hex()[:32]}: they were damaged on the way")
        heads = [(name, i) for name in ("parameters", "state") for i in range(len(value.get(name, [])))]
        sizes = piece["sizes"]
        if len(sizes) != len(heads) or min(sizes, default=0) < 0 or sum(sizes) != len(data):
            raise ValueError(f"at /piece/sizes: expected {len(heads)} sizes with a sum of {len(data)}, found {sizes[:5]}")
        whole, at = {**value, "piece": None, "parameters": list(value["parameters"])}, 0
        if "state" in value:
            whole["state"] = list(value["state"])
        for (name, i), size in zip(heads, sizes):
            whole[name][i] = {**whole[name][i], "data": data[at : at + size]}
            at += size
        return whole
