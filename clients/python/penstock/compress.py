"""Updates that say differences from the model, in fewer bytes, as the Go client says
them: to the byte."""

import math
import zlib

import numpy as np

_SCALED = 256  # elements that share a scale
_PAIR = np.dtype([("index", "<u4"), ("value", "<f4")])


class Compression:
    """fp16, int8 or top:SHARE. It remembers what it left out, and adds that to what
    the next update says, for as long as it lives."""

    def __init__(self, text):
        kind, _, share = text.partition(":")
        self._share = float(share) if kind == "top" and share else 0
        if text not in ("fp16", "int8") and not 0 < self._share <= 1:
            raise ValueError(f"expected fp16, int8 or top:SHARE with a share above 0 and up to 1, found {text!r}")
        self._pack = {"fp16": self._half, "int8": self._eighth, "top": self._largest}[kind]
        self._left = {}

    def pack(self, parameters, base):
        """The tensors of an update as its schema has them."""
        return [self._tensor(name, np.asarray(a, "<f4"), base[name]) for name, a in parameters.items()]

    def _tensor(self, name, array, base):
        d = (array - base).reshape(-1) + self._left.get(name, np.float32(0))
        if not np.isfinite(d).all():
            raise ValueError(f"parameter {name!r}: expected finite numbers of 32 bits")
        dtype, data, said = self._pack(d)
        self._left[name] = d - said
        return {"name": name, "dtype": dtype, "shape": list(array.shape), "data": data, "crc": zlib.crc32(data)}

    def _half(self, d):
        h = np.clip(d, -65504, 65504).astype("<f2")
        return "float16_difference", h.tobytes(), h.astype("<f4")

    def _eighth(self, d):
        parts, said = [], np.zeros_like(d)
        for at in range(0, len(d), _SCALED):
            block = d[at : at + _SCALED]
            scale = np.abs(block).max() / np.float32(127)
            q = np.zeros(len(block), "i1")
            if scale > 0:
                q = np.clip(np.rint(block / scale), -127, 127).astype("i1")
            parts += [scale.astype("<f4").tobytes(), q.tobytes()]
            said[at : at + _SCALED] = scale * q.astype("<f4")
        return "int8_difference", b"".join(parts), said

    def _largest(self, d):
        most = np.sort(np.argsort(-np.abs(d), kind="stable")[: math.ceil(self._share * len(d))])
        pairs = np.empty(len(most), _PAIR)
        pairs["index"], pairs["value"] = most, d[most]
        said = np.zeros_like(d)
        said[most] = d[most]
        return "largest_differences", pairs.tobytes(), said
