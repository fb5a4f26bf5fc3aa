"""Differential privacy by a client itself, which then has to trust nobody."""

import json
import math
import os

import numpy as np

from .federated import Refused
from .files import locked, write

_GRID = 20  # binary places of the noise's deviation, below which nothing is told


class Spent(Refused):
    """The budget has no room for another update."""


class LocalPrivacy:
    """Clips each update to a distance from its model, and adds Gaussian noise of the
    deviation noise times that before it is sent.

    What it hides is which update it was: any two that a client might send are up to twice
    the distance apart. ledger is a file in which updates are counted, those of all
    trainings to which it was given. Processes may share it, in Go and in Python: who writes
    to it holds the lock of the file beside it whose name ends in .lock. epsilon is a budget
    at delta: Spent is raised instead of an update that would take more. spent, the epsilon
    of all updates in the ledger, is up to date after each.
    """

    def __init__(self, clip, noise, ledger, epsilon=math.inf, delta=1e-5):
        if not (0 < clip < 1e30 and 0.1 <= noise <= 1e4 and epsilon >= 0 and 0 < delta < 1):
            raise ValueError(f"expected a distance above 0, noise from 0.1 to 10000, an epsilon of 0 or more and a delta between 0 and 1, found {clip}, {noise}, {epsilon}, {delta}")
        self._clip, self._noise, self._ledger = float(clip), float(noise), ledger
        self._epsilon, self._delta = epsilon, delta
        self.spent = _epsilon(self._counts(), delta)

    def _counts(self):
        """How many updates were made, by their noise."""
        try:
            with open(self._ledger, encoding="utf-8") as f:
                updates = json.load(f)["updates"]
        except FileNotFoundError:
            return {}
        if not all(float(noise) > 0 and isinstance(count, int) and count >= 0 for noise, count in updates.items()):
            raise ValueError(f"{self._ledger}: at /updates: expected counts by multipliers above 0, found {updates}")
        counts = {}
        for noise, count in updates.items():  # which may spell one multiplier in two ways
            counts[float(noise)] = counts.get(float(noise), 0) + count
        return counts

    def protect(self, model, parameters):
        """The parameters with noise, which the ledger has when they are returned."""
        with locked(f"{self._ledger}.lock"):
            return self._protect(model, parameters)

    def _protect(self, model, parameters):
        counts = self._counts()
        counts[self._noise] = counts.get(self._noise, 0) + 1
        epsilon = _epsilon(counts, self._delta)
        if epsilon > self._epsilon:
            raise Spent(f"the update would bring epsilon to {epsilon:.4g} at delta {self._delta:g}, and the budget is {self._epsilon:.4g}")
        moved = {name: np.asarray(parameters[name], "<f8") - array for name, array in model.parameters.items()}
        norm = math.sqrt(sum(float(np.sum(a * a)) for a in moved.values()))
        if not math.isfinite(norm):
            raise ValueError("expected finite numbers, found others in the update")
        out = {}
        for name, array in moved.items():
            # Rounding may leave it a little beyond: it aims that much lower.
            clipped = array * (min(1.0, self._clip / max(norm, self._clip)) * (1 - 1e-9))
            out[name] = (model.parameters[name] + _noisy(clipped, self._noise * self._clip)).astype("<f4")
        write(self._ledger, json.dumps({"updates": {f"{noise!r}": count for noise, count in counts.items()}}).encode())
        self.spent = epsilon
        return out


def _noisy(values, sd):
    """values with Gaussian noise from the system's secure source, on a grid that tells
    nothing of the values below the noise (Mironov, 2012)."""
    grid = math.ldexp(1.0, math.frexp(sd)[1] - 1 - _GRID)
    u, v = (((np.frombuffer(os.urandom(8 * values.size), "<u8") >> np.uint64(11)) + np.uint64(1)) / 2.0**53 for _ in range(2))
    noise = sd * np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
    return np.rint((values + noise.reshape(values.shape)) / grid) * grid


def _epsilon(counts, delta):
    """The epsilon at delta of so many updates, by Renyi differential privacy: the bill of
    the Gaussian mechanism with half the noise."""
    rho = sum(count * 2 / noise**2 for noise, count in counts.items())
    if rho == 0:
        return 0.0
    best = math.inf
    for a in [1 + i / 10 for i in range(1, 100)] + list(range(11, 64)) + [128, 256, 512, 1024]:
        if math.expm1(-rho * a) + delta * delta > 0:
            return 0.0
        best = min(best, rho * a + math.log1p(-1 / a) - math.log(delta * a) / (a - 1))
    return max(0.0, best)
