"""How near a policy's samples are to the target of a 2-D problem.

The papers show pictures only; distances, ideal sampler and off-support share are ours (docs/gallery/README.md).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tether.bandits.problems import Problem, nearest, squared_distances
from tether.diffusion.vp import VP, sample, vp_schedule
from tether.errors import InputError
from tether.types import Array, Float, Int, Key, PRNGKey

__all__ = [
    "Scores",
    "energy_distance",
    "ideal_samples",
    "modes_covered",
    "off_support_share",
    "reference_scores",
    "score",
    "share_in_best_modes",
    "sliced_wasserstein",
]

Samples = Float[np.ndarray, "samples action"]

ROWS = 50  # of a table of distances at once: it stays in the cache
SUPPORT_POINTS = 10_000  # data points that stand for the support, where the published set has more
COVERED = 0.2  # of an even share: the share of samples that covers a mode, times the number of modes
SAMPLES_AT_ONCE = 50  # of the ideal sampler: bounds its table of weights, samples x points
REFERENCE_SAMPLES = 2000
IDEAL_STEPS = 50  # N of BDPO's and DAC's 2-D experiments
IDEAL_POINTS = 8000  # of the target, whose exact denoiser the ideal sampler has


class Scores(NamedTuple):
    """One set of samples against one target. NaN where the problem does not define the number."""

    energy_distance: float  # squared, to the target, in the problem's units
    sliced_wasserstein: float  # to the target, in the problem's units
    closed: float  # 1 - ED(samples, target) / ED(data, target): 1 is the target, 0 the data; NaN where E is constant
    mean_energy: float  # of the samples, by position
    target_mean_energy: float  # of the target, by position
    off_support: float  # share of samples
    modes_covered: float  # number of modes; NaN without modes, like the next
    best_mode_share: float  # share of samples in the modes of the highest energy


def energy_distance(x: Samples, y: Float[np.ndarray, "others action"]) -> float:
    """Squared energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'|, unbiased: it is about 0, and may be below, at equality.

    In units of length. Both sets need two points.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    if min(len(x), len(y)) < 2:
        raise InputError(f"the energy distance needs two points in each set, not {len(x)} and {len(y)}")
    across = _sum_of_distances(x, y) / (len(x) * len(y))
    within = sum(_sum_of_distances(z, z) / (len(z) * (len(z) - 1)) for z in (x, y))
    return 2.0 * across - within


def _sum_of_distances(x: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for start in range(0, len(x), ROWS):
        total += float(np.sqrt(squared_distances(x[start : start + ROWS], y)).sum())
    return total


def sliced_wasserstein(x: Samples, y: Float[np.ndarray, "others action"], directions: int = 128) -> float:
    """Mean over equally spaced directions of the 1-Wasserstein distance of the projections, in units of length.

    The sets have equal sizes, so that each projection's distance is that of the sorted values.
    """
    if len(x) != len(y):
        raise InputError(f"sliced_wasserstein needs sets of equal size, not {len(x)} and {len(y)} points")
    angle = np.pi * np.arange(directions) / directions  # half a turn: the other half repeats it
    direction = np.stack([np.cos(angle), np.sin(angle)])
    sorted_x, sorted_y = (np.sort(z.astype(np.float64) @ direction, axis=0) for z in (x, y))
    return float(np.mean(np.abs(sorted_x - sorted_y)))


def off_support_share(samples: Samples, data: Float[np.ndarray, "points action"], radius: float) -> float:
    """Share of samples farther than `radius` from every data point; those that are not finite count as off."""
    return float(np.mean(~(nearest(samples, data)[1] <= radius)))


def modes_covered(samples: Samples, problem: Problem) -> int:
    """Number of modes that hold at least `COVERED` / modes of the samples. Needs a problem with modes.

    One bar for all modes, so that the number is a fact about the samples; what the target covers is the reference.
    """
    share = _mode_shares(samples, problem)
    return int(np.sum(share >= COVERED / len(share)))


def share_in_best_modes(samples: Samples, problem: Problem) -> float:
    """Share of samples in modes of the highest energy. Needs a problem with modes."""
    return float(_mode_shares(samples, problem)[problem.best_modes()].sum())


def _mode_shares(samples: Samples, problem: Problem) -> Float[np.ndarray, " modes"]:
    """Share of the samples in each mode; they add up to less than 1 where samples are in none."""
    mode: Int[np.ndarray, " samples"] = problem.nearest_mode(samples)
    modes = 0 if problem.modes is None else len(problem.modes)
    return np.bincount(mode[mode >= 0], minlength=modes) / len(samples)


def ideal_samples(points: Float[np.ndarray, "points action"], schedule: VP, count: int, key: PRNGKey) -> Samples:
    """What the DDPM sampler draws with the exact denoiser of `points`: the best that a diffusion policy can do.

    The posterior mean of the clean point given a_n is the mean of `points` weighted by N(a_n; sqrt(abar) point,
    (1 - abar) I). Sampling as in `diffusion.vp`, without clipping.
    """
    return np.asarray(_ideal_samples(jnp.asarray(points, jnp.float32), schedule, jax.random.split(key, count)))


@jax.jit
def _ideal_samples(
    points: Float[Array, "points action"], schedule: VP, keys: Key[Array, " samples"]
) -> Float[Array, "samples action"]:
    def exact_noise(noisy_action, _, step):
        alpha_bar = jnp.asarray(schedule.alpha_bar)[step]
        # The density's logarithm without |a_n|^2, which all points share: a product of matrices, many times faster.
        alike = jnp.matmul(points, jnp.sqrt(alpha_bar) * noisy_action, precision="highest")
        logits = (alike - 0.5 * alpha_bar * jnp.sum(points**2, axis=1)) / (1.0 - alpha_bar)
        clean = jnp.matmul(jax.nn.softmax(logits), points, precision="highest")
        return (noisy_action - jnp.sqrt(alpha_bar) * clean) / jnp.sqrt(1.0 - alpha_bar)

    no_observation = jnp.zeros(1)
    draw = functools.partial(sample, schedule, exact_noise, no_observation, action_size=2, bound=None)
    return jax.lax.map(draw, keys, batch_size=SAMPLES_AT_ONCE)


def score(samples: Samples, problem: Problem, rng: np.random.Generator, temperature: float | None = None) -> Scores:
    """`samples` (the problem's units) against fresh draws of target and data, as many as there are samples.

    temperature: of the target; None takes the problem's own. Where a sample is not finite, distances and mean energy
    are NaN.
    """
    count = len(samples)
    finite = bool(np.isfinite(samples).all())
    target = problem.target(count, rng, temperature).actions
    data = problem.sample(count, rng)
    support = problem.sample(min(problem.published_size, SUPPORT_POINTS), rng).actions
    if problem.published_size > SUPPORT_POINTS:
        # The target's points are points of the published set too, from a tail that fewer points do not show.
        support = np.concatenate([support, target])
    target_energy = problem.energy(target)
    distance = energy_distance(samples, target) if finite else np.nan
    has_modes = problem.modes is not None
    return Scores(
        energy_distance=distance,
        sliced_wasserstein=sliced_wasserstein(samples, target) if finite else np.nan,
        closed=1.0 - distance / energy_distance(data.actions, target) if np.ptp(data.energy) > 0.0 else np.nan,
        mean_energy=float(np.mean(problem.energy(samples))) if finite else np.nan,
        target_mean_energy=float(np.mean(target_energy)),
        off_support=off_support_share(samples, support, problem.support_radius),
        modes_covered=float(modes_covered(samples, problem)) if has_modes else np.nan,
        best_mode_share=share_in_best_modes(samples, problem) if has_modes else np.nan,
    )


def reference_scores(
    problem: Problem, rng: np.random.Generator, temperature: float | None = None, count: int = REFERENCE_SAMPLES
) -> dict[str, Scores]:
    """The rows to hold a policy's against, of `count` samples each.

    "data": no learning; "ideal": a perfect diffusion policy; "target": another draw of it, the floor.
    """
    points = problem.target(IDEAL_POINTS, rng, temperature).actions
    key = jax.random.key(int(rng.integers(2**31)))
    rows = {
        "data": problem.sample(count, rng).actions,
        "ideal": ideal_samples(points, vp_schedule(IDEAL_STEPS), count, key),
        "target": problem.target(count, rng, temperature).actions,
    }
    return {name: score(samples, problem, rng, temperature) for name, samples in rows.items()}
