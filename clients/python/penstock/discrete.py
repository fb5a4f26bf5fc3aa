"""Discrete Gaussian noise from the system's secure source, exactly as it should be: the
sampler of Canonne, Kamath and Steinke (2020), in integers alone, so that no rounding tells
of what is below the noise."""

import os

import numpy as np


_BLOCK = 1 << 18  # draws at a time: memory of some megabytes


def gaussian(sigma, n):
    """n integers, each x with a probability as exp(-x^2/(2 sigma^2)). sigma is 1 to 2^27."""
    return np.concatenate([_block(sigma, min(_BLOCK, n - at)) for at in range(0, n, _BLOCK)])


def _block(sigma, n):
    out, left = np.zeros(n, "<i8"), np.arange(n)
    twice = 2 * sigma * sigma
    while len(left):
        # The discrete Laplace distribution, and a coin that says which draws may pass.
        scale, one = np.full(len(left), sigma, "<u8"), np.ones(len(left), "<u8")
        x = _below(scale)
        passes = _decay(x, scale)
        grows = np.flatnonzero(passes)
        while len(grows := grows[_decay(one[grows], one[grows])]):
            x[grows] += np.uint64(sigma)
        negative = _below(2 * one) == 1
        passes &= ~(negative & (x == 0))  # or 0 would come twice
        away = np.maximum(x, scale) - np.minimum(x, scale)
        whole, rest = np.divmod(away * away, np.uint64(twice))
        for i in np.flatnonzero(away >> np.uint64(32)):  # whose square has more than 64 bits
            whole[i], rest[i] = divmod(int(away[i]) ** 2, twice)
        passes &= _decay(rest, np.full(len(left), twice, "<u8"))
        more = np.flatnonzero(passes & (whole > 0))
        while len(more):
            goes = _decay(one[more], one[more])
            passes[more[~goes]] = False
            more = more[goes]
            whole[more] -= np.uint64(1)
            more = more[whole[more] > 0]
        out[left[passes]] = np.where(negative, -x.astype("<i8"), x.astype("<i8"))[passes]
        left = left[~passes]
    return out


def _below(n):
    """For each n, an integer from 0 to n-1, of which each is as likely as another."""
    out, left = np.zeros(len(n), "<u8"), np.arange(len(n))
    while len(left):
        x = np.frombuffer(os.urandom(8 * len(left)), "<u8")
        rest = x % n[left]
        fine = x - rest <= np.uint64(0) - n[left]  # else it lies beyond the last multiple
        out[left[fine]] = rest[fine]
        left = left[~fine]
    return out


def _decay(a, b):
    """For each a and b, true with probability exp(-a/b). a is at most b."""
    k, going = np.ones(len(a), "<u8"), np.arange(len(a))
    while len(going):
        going = going[_below(b[going] * k[going]) < a[going]]
        k[going] += np.uint64(1)
    return k % np.uint64(2) == 1
