"""How well the best policy of N Gaussian steps does on BDPO's 2-D problems: dynamic programming on a grid.

BDPO's theory lets every reverse kernel be arbitrary; its policies take N Gaussian steps of fixed variance beta_n, which
is exact only as N grows. Is a miss of a trained policy a matter of N, or of training? With Q the energy, the actor free
to choose each step's mean m, and mu(a) the mean of the exact behaviour's step (arXiv 2502.04778):

    V_0 = Q
    V_n(a) = max_m  E_z[ V_{n-1}(m + 1[n > 1] sqrt(beta_n) z) ] - eta |m - mu(a)|^2 / (2 beta_n)

Printed beside V* and the target's mean energy: E[V_N] of that policy, its own play's mean energy and path KL.

python benchmarks/best_gaussian_steps.py [--steps 50] [--out FILE.json] [PROBLEM ...]
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.bandits import get_problem
from tether.diffusion.vp import VP, vp_schedule

ETA = 0.06
HALF_WIDTH, SPACING = 6.0, 0.04  # of the grid; the data lie within 4.5, the least noise deviation is 0.06
POINTS, PLAYED = 2_000_000, 20_000
AXIS = np.arange(-HALF_WIDTH, HALF_WIDTH + SPACING / 2, SPACING)
GRID = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1)  # (axis, axis, 2)


class Step(NamedTuple):
    """One reverse step on the grid."""

    behaviour: np.ndarray  # (axis, axis, 2): mu(a)
    value: np.ndarray  # (axis, axis): the maximum above, by mu instead of a


def solve(points: np.ndarray, energies: np.ndarray, schedule: VP) -> tuple[list[Step], np.ndarray]:
    """points: float (points, 2); energies: (axis, axis) -> the steps n = 1..N, and V_N (axis, axis)."""
    steps, value = [], energies
    for n in range(1, schedule.steps + 1):
        following = value if n == 1 else _blurred(value, np.sqrt(schedule.beta[n]))
        by_mean = _best_mean(following, ETA / (2 * schedule.beta[n]))
        steps.append(Step(_behaviour_mean(points, schedule, n), by_mean))
        value = interpolate(by_mean, steps[-1].behaviour)
    return steps, value


def play(steps: list[Step], schedule: VP, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The best policy's own samples: clean actions (count, 2), path KLs (count,)."""
    action, path_kl = rng.normal(size=(count, 2)), np.zeros(count)
    for n in range(schedule.steps, 0, -1):
        behaviour, by_mean = steps[n - 1]
        mu = interpolate(behaviour, action)
        # The maximum's gradient by mu is -eta (mu - m) / beta (envelope theorem).
        slope = np.stack(list(np.gradient(by_mean, SPACING)), axis=-1)
        mean = mu + schedule.beta[n] / ETA * interpolate(slope, mu)
        path_kl += ((mean - mu) ** 2).sum(axis=-1) / (2 * schedule.beta[n])
        action = mean + schedule.deviation[n] * rng.normal(size=mean.shape)
    return action, path_kl


def interpolate(table: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Bilinear. table: (axis, axis, ...); where: (..., 2), moved onto the grid."""
    place = np.clip((where + HALF_WIDTH) / SPACING, 0, len(AXIS) - 1 - 1e-9)
    low = place.astype(int)
    share = (place - low).reshape(*low.shape, *[1] * (table.ndim - 2))
    (i, j), (x, y) = np.moveaxis(low, -1, 0), np.moveaxis(share, where.ndim - 1, 0)
    along = [table[i + a, j] * (1 - y) + table[i + a, j + 1] * y for a in (0, 1)]
    return along[0] * (1 - x) + along[1] * x


def _behaviour_mean(points: np.ndarray, schedule: VP, n: int) -> np.ndarray:
    """The mean of the exact behaviour's step n (axis, axis, 2): the reverse mean at E[a_0 | a_n] under the data."""
    alpha_bar, before = schedule.alpha_bar[n], schedule.alpha_bar[n - 1]
    noise, scaled = np.sqrt(1 - alpha_bar), np.sqrt(alpha_bar) * points
    density = _smoothed(_histogram(scaled, np.ones(len(points))), noise)
    clean = np.empty_like(GRID)
    for axis in (0, 1):  # shifted: sums of positive numbers are exact where the density is 1e-200
        start = points[:, axis].min() - 1
        weighted = _smoothed(_histogram(scaled, points[:, axis] - start), noise)
        known = density > 1e-250
        clean[..., axis] = np.where(known, weighted / np.where(known, density, 1) + start, GRID[..., axis])
    return (np.sqrt(before) * schedule.beta[n] * clean + np.sqrt(schedule.alpha[n]) * (1 - before) * GRID) / noise**2


def _histogram(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    edges = np.append(AXIS - SPACING / 2, AXIS[-1] + SPACING / 2)
    return np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges), weights=weights)[0]


def _best_mean(value: np.ndarray, weight: float) -> np.ndarray:
    """max_m value(m) - weight |m - u|^2 at every u of the grid, axis by axis."""
    price = weight * (AXIS[:, None] - AXIS) ** 2
    for _ in (0, 1):
        value = np.stack([(value - row[:, None]).max(axis=0) for row in price], axis=1)  # transposed
    return value


def _blurred(value: np.ndarray, deviation: float) -> np.ndarray:
    """The expectation over Gaussian noise; what leaves the grid counts as what stays."""
    kernel = _kernel(deviation)
    kernel /= kernel.sum(axis=1, keepdims=True)
    return kernel @ value @ kernel.T


def _smoothed(density: np.ndarray, deviation: float) -> np.ndarray:
    kernel = _kernel(deviation)
    return kernel @ density @ kernel.T


def _kernel(deviation: float) -> np.ndarray:
    return np.exp(-((AXIS[:, None] - AXIS) ** 2) / (2 * deviation**2))


def measure(name: str, schedule: VP) -> dict[str, Any]:
    """Solve a problem and play its best policy."""
    problem, rng = get_problem(name), np.random.default_rng(0)
    data = problem.sample(POINTS, rng)
    energies = problem.energy(GRID.reshape(-1, 2)).reshape(len(AXIS), len(AXIS)).astype(float)
    steps, value = solve(np.asarray(data.actions, float), energies, schedule)
    prior = np.exp(-(GRID**2).sum(axis=-1) / 2)
    action, path_kl = play(steps, schedule, PLAYED, rng)
    return {
        "problem": name,
        "steps": schedule.steps,
        "v_star": problem.v_star(ETA),
        "best_value": float((value * prior).sum() / prior.sum()),
        "target_energy": float(problem.target(POINTS // 10, rng, ETA).energy.mean()),
        "best_energy": float(problem.energy(action).mean()),
        "path_kl": float(path_kl.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("problems", nargs="*", default=["2spirals", "swissroll"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    print("| problem | V* | best E[V_N] | target's mean energy | best mean energy | its path KL |")
    print("|---|---|---|---|---|---|")
    rows = []
    for name in arguments.problems:
        rows.append(row := measure(name, vp_schedule(arguments.steps)))
        numbers = [row[column] for column in ("v_star", "best_value", "target_energy", "best_energy", "path_kl")]
        print("|", " | ".join([name, *(f"{number:.3f}" for number in numbers)]), "|")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
