"""Avro's binary encoding, as far as Penstock's messages use it. Values are what
they are in JSON, but bytes for bytes and fixed, and a union's value stands bare.
"""

import struct

# What foreign bytes may ask for in one array: above any training's clients.
MAX_ITEMS = 1_000_000


class AvroError(ValueError):
    """A value does not fit its schema, or bytes are no encoding of one."""


def encode(schema, value):
    """Returns value in binary. Fields that it lacks take their default."""
    out = bytearray()
    _write(schema, value, {}, out, "")
    return bytes(out)


def decode(schema, data):
    """Reads a value that was written with this very schema, to the last byte."""
    reader = _Reader(data)
    value = _read(schema, {}, reader, "")
    if reader.at != len(data):
        raise AvroError(f"expected the end after {reader.at} bytes, found {len(data) - reader.at} more")
    return value


def _resolve(schema, names):
    """A schema in its long form; a definition makes its name known."""
    if isinstance(schema, str):
        return names.get(schema, {"type": schema})
    if isinstance(schema, list):
        return {"type": "union", "branches": schema}
    if isinstance(schema["type"], (dict, list)):
        return _resolve(schema["type"], names)
    if "name" in schema:
        names[schema["name"]] = schema
        if "namespace" in schema:
            names[schema["namespace"] + "." + schema["name"]] = schema
    return schema


def _write(schema, value, names, out, at):
    s = _resolve(schema, names)
    kind = s["type"]
    try:
        if kind == "record":
            for field in s["fields"]:
                name = field["name"]
                if name not in value and "default" not in field:
                    raise AvroError(f"at {at}/{name}: expected a value, found none")
                item = value[name] if name in value else _default(field)
                _write(field["type"], item, names, out, f"{at}/{name}")
        elif kind == "array":
            if value:
                out += _long(len(value))
                for i, item in enumerate(value):
                    _write(s["items"], item, names, out, f"{at}/{i}")
            else:
                _define(s["items"], names)
            out += _long(0)
        elif kind == "union":
            for i, branch in enumerate(s["branches"]):
                b = _resolve(branch, names)
                if (b["type"] == "null") == (value is None):
                    out += _long(i)
                    _write(b, value, names, out, at)
                    return
            raise AvroError(f"at {at}: expected one of {s['branches']}, found {value!r:.60}")
        elif kind == "enum":
            out += _long(s["symbols"].index(value))
        elif kind in ("int", "long"):
            limit = 1 << (31 if kind == "int" else 63)
            if not -limit <= value < limit:
                raise AvroError(f"at {at}: expected a number that fits {kind}, found {value}")
            out += _long(value)
        elif kind == "double":
            out += struct.pack("<d", value)
        elif kind == "boolean":
            out.append(1 if value else 0)
        elif kind == "string":
            text = value.encode()
            out += _long(len(text))
            out += text
        elif kind == "bytes":
            out += _long(len(value))
            out += value
        elif kind == "fixed":
            if len(value) != s["size"]:
                raise AvroError(f"at {at}: expected {s['size']} bytes, found {len(value)}")
            out += value
        elif kind != "null":
            raise AvroError(f"at {at}: the Avro type {kind!r} is not known here")
    except (TypeError, AttributeError, ValueError, struct.error) as e:
        if isinstance(e, AvroError):
            raise
        raise AvroError(f"at {at}: expected {kind}, found {value!r:.60}") from e


def _default(field):
    """A field's default; that of bytes is text in JSON."""
    value = field["default"]
    return value.encode("latin-1") if field["type"] == "bytes" else value


def _define(schema, names):
    """Makes the names below a schema known that no value passes through."""
    s = _resolve(schema, names)
    for field in s.get("fields", []):
        _define(field["type"], names)
    for branch in s.get("branches", []):
        _define(branch, names)
    if "items" in s:
        _define(s["items"], names)


def _long(n):
    n = (n << 1) ^ (n >> 63)
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return out


class _Reader:
    def __init__(self, data):
        self.data, self.at = memoryview(data), 0

    def take(self, n):
        if n < 0 or n > len(self.data) - self.at:
            raise AvroError(f"expected {n} more bytes after {self.at}, found {len(self.data) - self.at}")
        self.at += n
        return bytes(self.data[self.at - n : self.at])

    def long(self):
        n = shift = 0
        while True:
            b = self.take(1)[0]
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                break
            if shift > 63:
                raise AvroError("expected a number of at most 10 bytes")
        return (n >> 1) ^ -(n & 1)


def _read(schema, names, r, at):
    s = _resolve(schema, names)
    kind = s["type"]
    if kind == "record":
        return {f["name"]: _read(f["type"], names, r, f"{at}/{f['name']}") for f in s["fields"]}
    if kind == "array":
        items = []
        _define(s["items"], names)
        while count := r.long():
            if count < 0:
                count = -count
                r.long()  # the block's size, for those who skip it
            if count > MAX_ITEMS - len(items):
                raise AvroError(f"at {at}: expected at most {MAX_ITEMS} items")
            for _ in range(count):
                items.append(_read(s["items"], names, r, f"{at}/{len(items)}"))
        return items
    if kind == "union":
        return _read(_pick(s["branches"], r.long(), at), names, r, at)
    if kind == "enum":
        return _pick(s["symbols"], r.long(), at)
    if kind in ("int", "long"):
        return r.long()
    if kind == "double":
        return struct.unpack("<d", r.take(8))[0]
    if kind == "boolean":
        return r.take(1) != b"\0"
    if kind == "string":
        return r.take(r.long()).decode()
    if kind == "bytes":
        return r.take(r.long())
    if kind == "fixed":
        return r.take(s["size"])
    if kind == "null":
        return None
    raise AvroError(f"at {at}: the Avro type {kind!r} is not known here")


def _pick(choices, i, at):
    if not 0 <= i < len(choices):
        raise AvroError(f"at {at}: expected a choice below {len(choices)}, found {i}")
    return choices[i]
