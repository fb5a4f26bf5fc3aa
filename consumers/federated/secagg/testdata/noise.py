"""Compares the vectors with noise of the client in clients/python with those of Go: the
same clipping and unit, integers within their bound, noise of the right distribution, and
the same settings refused."""

import json
import math
import sys

import numpy as np

from penstock import discrete, secagg

t = json.load(sys.stdin)
for case in t["cases"]:
    values = np.array(case["values"], "<f4")
    s = secagg.Settings.read(bytes.fromhex(case["settings"]))
    assert (s.bound, s.sigma, s.clip) == (case["bound"], case["sigma"], case["norm"]), s
    exact = s.exact(values)
    assert np.allclose(exact, case["exact"], rtol=1e-12, atol=0), (exact, case["exact"])
    promise = {"clip": case["norm"], "noise": 1.5, "shares": 3}
    assert s.keeps(promise), promise
    for wrong in ({"noise": 1.501}, {"clip": case["norm"] * 2}, {"shares": 4}, {"shares": 0}):
        assert not s.keeps(promise | wrong), wrong
    s = secagg.replace(s, sigma=1)  # noise of less than 20, for certain enough
    for _ in range(20):
        vector = s.encode(values, 1)
        assert vector.dtype == "<u4" and vector[0] == 1, vector
        noise = vector[1:].astype("<i4") - exact
        assert np.abs(noise).max() < 20, noise
    discrete.gaussian, kept = (lambda sigma, n: np.zeros(n, "<i8")), discrete.gaussian
    for _ in range(20):
        whole = s.encode(values, 1)[1:].astype("<i4").astype(object)
        assert (whole * whole).sum() <= s.bound**2 and (np.abs(whole - exact) < 1).all(), whole
    discrete.gaussian = kept
for name, settings in t["refused"].items():
    try:
        secagg.Settings.read(bytes.fromhex(settings))
    except secagg.Refused:
        continue
    raise AssertionError(f"{name}: accepted")

# Each is further off than seven standard deviations once in 10^11 runs.
n = 100_000
for sigma in (2, 1000, 1 << 27):
    x = discrete.gaussian(sigma, n) / sigma
    assert abs(x.mean()) < 7 / math.sqrt(n) and abs((x**2).mean() - 1) < 7 * math.sqrt(2 / n), (sigma, x.mean(), (x**2).mean())
    assert abs((np.abs(x) < 2).mean() - (0.9545 if sigma > 2 else 0.9229)) < 7 * math.sqrt(0.08 / n), (np.abs(x) < 2).mean()
x = discrete.gaussian(1, n)
weights = np.exp(-np.arange(-9, 10) ** 2 / 2)
for k, p in zip(range(-4, 5), (weights / weights.sum())[5:14]):
    assert abs((x == k).mean() - p) < 7 * math.sqrt(p / n), (k, (x == k).mean(), p)
print(f"{len(t['cases'])} vectors, {len(t['refused'])} refused")
