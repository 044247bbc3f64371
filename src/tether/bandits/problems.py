"""2-D problems with known answers: the toy sets of the DTQL, DAC and BDPO papers.

One state, two action coordinates, data from a known density p and an energy (noiseless reward) E to be maximised.
What a regularised policy should draw is the target p(a) exp(E(a) / temperature) / Z: data that are re-weighted, never
extrapolated. V* = temperature log Z is its soft value.

Two-moons, two-circles and swiss-roll sets follow scikit-learn's formulas, from which the papers' code takes them.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tether.errors import InputError, unknown
from tether.types import Float, Int

__all__ = ["PROBLEMS", "Points", "Problem", "get_problem", "nearest", "squared_distances"]

BLOCK = 240_000  # points drawn at once: bounds the memory of large pools, and a multiple of every number of components
POOL_RATIO = 10  # effective pool points per point resampled: then about 1 in 20 is drawn twice
LARGEST_POOL = 8_000_000  # points; reached only at temperatures far below a problem's own
COMPARED_AT_ONCE = 100_000  # pairs of points: their table stays in the cache
CURVE_POINTS = 500  # that stand for a curve when the nearest one is asked for


class Points(NamedTuple):
    """Actions with what is known of them, leading axis `count`."""

    actions: Float[np.ndarray, "count action"]  # float32, in the problem's own units
    energy: Float[np.ndarray, " count"]  # float32, reward without noise
    mode: Int[np.ndarray, " count"]  # int32, index into Problem.modes; -1 where the problem has none


class Drawn(NamedTuple):
    """What a generator returns; None: the energy is that of the position, or there is no component."""

    actions: Float[np.ndarray, "count action"]
    energy: Float[np.ndarray, " count"] | None = None
    mode: Int[np.ndarray, " count"] | None = None


Generator = Callable[[int, np.random.Generator], Drawn]
Energy = Callable[[np.ndarray], np.ndarray]
Proposal = Callable[[int, np.random.Generator, float], tuple[Drawn, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A data density, its energy, and the exact answer to both.

    `energy(actions [count, 2]) -> [count]` is a function of the position, for the samples of a policy. Where the data's
    energy belongs to the component that a point was drawn from (8gaussians, moons, 2spirals, rings), it is that of the
    nearest component; `sample` gives the true one.
    """

    name: str
    paper: str  # "DTQL", "DAC" or "BDPO"
    description: str
    temperature: float  # of the target; source beside each family below
    support_radius: float  # a sample farther than this from the nearest data point is off the support
    generate: Generator = dataclasses.field(repr=False)
    energy: Energy = dataclasses.field(repr=False)
    published_size: int  # points of the paper's data set; sample(published_size) has exactly its composition
    modes: Float[np.ndarray, "modes action"] | None = None  # centres; None: the set is a continuous curve
    mode_radius: float = 0.0  # a sample within this distance of its nearest centre belongs to that mode
    max_action: float | None = None  # data are clipped to ±this; None: no clipping, the data set bounds the actions
    reward_noise: float = 0.0  # standard deviation of the noise that the learner's rewards carry, new at every draw
    proposal: Proposal | None = dataclasses.field(default=None, repr=False)  # see `_weighted`

    def sample(self, count: int, rng: np.random.Generator) -> Points:
        """`count` points of the data, in random order; Gaussians, arms and rings get equal numbers of them (±1)."""
        points = self._complete(self.generate(count, rng))
        order = rng.permutation(count)
        return Points(*(array[order] for array in points))

    def target(self, count: int, rng: np.random.Generator, temperature: float | None = None) -> Points:
        """`count` points of the target: data drawn again with probability proportional to exp(E / temperature).

        The pool is fresh and grows until its effective size, (sum w)^2 / sum w^2, is `POOL_RATIO` times `count`.
        With a `proposal` the pool is that instead of data: the same distribution from far fewer points.
        """
        temperature = self._temperature(temperature)
        pool, log_weight = self._weighted(BLOCK, rng, temperature)
        while _effective_size(log_weight) < POOL_RATIO * count and len(log_weight) < LARGEST_POOL:
            more, more_log_weight = self._weighted(len(log_weight), rng, temperature)
            pool = _concatenate([pool, more])
            log_weight = np.concatenate([log_weight, more_log_weight])
        chosen = rng.choice(len(log_weight), size=count, p=_normalised(log_weight))
        return Points(*(array[chosen] for array in pool))

    def v_star(self, temperature: float | None = None, points: int = 2_000_000) -> float:
        """temperature log mean exp(E / temperature) over `points` data points, always the same ones."""
        temperature = self._temperature(temperature)
        log_weight = self._weighted(points, np.random.default_rng(0), temperature)[1]
        peak = log_weight.max()
        return temperature * float(peak + np.log(np.mean(np.exp(log_weight - peak))))

    def mode_weights(self, temperature: float | None = None, points: int = 2_000_000) -> Float[np.ndarray, " modes"]:
        """Share of the target in each mode, from `points` data points, always the same ones. Needs modes."""
        modes = len(self._modes())
        pool, log_weight = self._weighted(points, np.random.default_rng(0), self._temperature(temperature))
        return np.bincount(pool.mode, weights=_normalised(log_weight), minlength=modes)

    def best_modes(self) -> Int[np.ndarray, " best"]:
        """Indices of the modes whose centre has the highest energy. Needs modes."""
        energy = self.energy(self._modes())
        return np.flatnonzero(np.isclose(energy, energy.max()))

    def nearest_mode(self, samples: Float[np.ndarray, "count action"]) -> Int[np.ndarray, " count"]:
        """Index of the mode that each sample belongs to, -1 for none (farther than `mode_radius`). Needs modes."""
        index, distance = nearest(samples, self._modes())
        return np.where(distance <= self.mode_radius, index, -1)

    def _complete(self, drawn: Drawn) -> Points:
        """Clip, fill in energy and mode, narrow the types."""
        actions = drawn.actions.astype(np.float32)
        if self.max_action is not None:
            actions = np.clip(actions, -self.max_action, self.max_action)
        energy = self.energy(actions) if drawn.energy is None else drawn.energy
        mode = np.full(len(actions), -1) if drawn.mode is None else drawn.mode
        return Points(actions, energy.astype(np.float32), mode.astype(np.int32))

    def _weighted(
        self, count: int, rng: np.random.Generator, temperature: float
    ) -> tuple[Points, Float[np.ndarray, " count"]]:
        """(points, log of weights) such that the weighted points follow the target and the mean weight is Z.

        Without a `proposal` these are data weighted by exp(E / temperature).
        """
        blocks, log_weights = [], []
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            if self.proposal is None:
                points = self.sample(size, rng)
                log_weight = points.energy.astype(np.float64) / temperature
            else:
                drawn, log_weight = self.proposal(size, rng, temperature)
                points = self._complete(drawn)
            blocks.append(points)
            log_weights.append(log_weight)
        return _concatenate(blocks), np.concatenate(log_weights)

    def _temperature(self, temperature: float | None) -> float:
        temperature = self.temperature if temperature is None else temperature
        if not temperature > 0.0:
            raise InputError(f"temperature {temperature} of problem {self.name!r}: must be positive")
        return temperature

    def _modes(self) -> Float[np.ndarray, "modes action"]:
        if self.modes is None:
            raise InputError(f"problem {self.name!r} lies on continuous curves: it has no modes")
        return self.modes


def nearest(
    points: Float[np.ndarray, "count action"], references: Float[np.ndarray, "references action"]
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    """(index of the nearest reference, its distance) of every point; NaN points are NaN away."""
    index = np.empty(len(points), np.int64)
    distance = np.empty(len(points), np.float64)
    points, references = points.astype(np.float64), references.astype(np.float64)
    rows = max(1, COMPARED_AT_ONCE // len(references))
    for start in range(0, len(points), rows):
        some = slice(start, start + rows)
        squared = squared_distances(points[some], references)
        index[some] = squared.argmin(axis=1)
        distance[some] = np.sqrt(np.take_along_axis(squared, index[some, None], axis=1)[:, 0])
    return index, distance


def squared_distances(
    points: Float[np.ndarray, "count action"], references: Float[np.ndarray, "references action"]
) -> Float[np.ndarray, "count references"]:
    """Distances between all pairs, summed coordinate by coordinate: no cancellation, no axis of length two."""
    return (points[:, :1] - references[:, 0]) ** 2 + (points[:, 1:] - references[:, 1]) ** 2


def _concatenate(parts: list[Points]) -> Points:
    return Points(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _normalised(log_weight: np.ndarray) -> np.ndarray:
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


def _effective_size(log_weight: np.ndarray) -> float:
    return 1.0 / float(np.sum(_normalised(log_weight) ** 2))


# --- shapes -------------------------------------------------------------------------------------------------


def _gaussians(centres: np.ndarray, deviation: float, numbered: bool = True) -> Generator:
    """Isotropic Gaussians at `centres`, the points dealt out in turn, so that all get as many as any other."""

    def generate(count: int, rng: np.random.Generator) -> Drawn:
        component = np.arange(count) % len(centres)
        actions = centres[component] + deviation * rng.standard_normal((count, 2))
        return Drawn(actions, mode=component if numbered else None)

    return generate


def _two_moons(count: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's make_moons without noise -> (points, whether each is on the second, lower moon)."""
    upper, lower = np.linspace(0, np.pi, count // 2), np.linspace(0, np.pi, count - count // 2)
    x = np.concatenate([np.cos(upper), 1.0 - np.cos(lower)])
    y = np.concatenate([np.sin(upper), 0.5 - np.sin(lower)])
    return np.stack([x, y], axis=1), np.arange(count) >= count // 2


def _two_circles(count: int, ratio: float = 0.8) -> np.ndarray:
    """scikit-learn's make_circles without noise."""
    outer = np.linspace(0, 2 * np.pi, count // 2, endpoint=False)
    inner = np.linspace(0, 2 * np.pi, count - count // 2, endpoint=False)
    angle = np.concatenate([outer, inner])
    radius = np.where(np.arange(count) < count // 2, 1.0, ratio)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _roll(angle: np.ndarray) -> np.ndarray:
    """First and third coordinate of scikit-learn's make_swiss_roll, without noise."""
    return angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _roll_angle(share: np.ndarray) -> np.ndarray:
    """make_swiss_roll's angle, from 1.5 pi (inner end, share 0) to 4.5 pi (outer end, share 1)."""
    return 1.5 * np.pi * (1.0 + 2.0 * share)


def _by_nearest(references: np.ndarray, energies: np.ndarray) -> Energy:
    """Energy of the nearest reference point."""
    return lambda actions: energies[nearest(actions, references)[0]]


# --- DTQL, arXiv 2405.19690, and its toy code. Support radius: two standard deviations of the noise. The method has no
# temperature; ours makes the target what the figures show: nearly all of it at the best modes, or the best end of the
# roll. At "hard", whose rewards are doubled, it is doubled too.

DTQL_POINTS = 10_000
GRID_DEVIATION, ROLL_DEVIATION = 0.3, 0.1
GRID = np.stack(np.meshgrid(*[np.arange(-10.0, 11.0, 5.0)] * 2, indexing="ij"), axis=-1).reshape(25, 2)
# The reward "near" is max |a| over the data set - |a|. These are the means of that maximum over sets of 10,000 points,
# fixed so that the energy of a point does not depend on which other points were drawn (the target never does).
GRID_FURTHEST, ROLL_FURTHEST = 15.2, 14.3


def _norm(actions: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(np.square(actions, dtype=np.float64), axis=1))


def _far(actions: np.ndarray) -> np.ndarray:
    return _norm(actions)


def _near(furthest: float) -> Energy:
    return lambda actions: furthest - _norm(actions)


def _hard(actions: np.ndarray) -> np.ndarray:
    upper_left = (actions[:, 0] < -7.5) & (actions[:, 1] > 7.5)
    return np.where(upper_left, 2.0, 1.0) * _norm(actions)


def _same(actions: np.ndarray) -> np.ndarray:
    return np.zeros(len(actions))


def _grid_problem(reward: str, description: str, energy: Energy, temperature: float = 0.5) -> Problem:
    return Problem(
        name=f"25gaussians-{reward}",
        paper="DTQL",
        description=f"5 x 5 Gaussians, {description}",
        temperature=temperature,
        support_radius=2 * GRID_DEVIATION,
        generate=_gaussians(GRID, GRID_DEVIATION),
        energy=energy,
        published_size=DTQL_POINTS,
        modes=GRID,
        mode_radius=3 * GRID_DEVIATION,
    )


def _roll_problem(reward: str, description: str, energy: Energy) -> Problem:
    def generate(count: int, rng: np.random.Generator) -> Drawn:
        return Drawn(_roll(_roll_angle(rng.random(count))) + ROLL_DEVIATION * rng.standard_normal((count, 2)))

    return Problem(
        name=f"roll-{reward}",
        paper="DTQL",
        description=f"swiss roll, unscaled, {description}",
        temperature=0.5,
        support_radius=2 * ROLL_DEVIATION,
        generate=generate,
        energy=energy,
        published_size=DTQL_POINTS,
    )


# --- DAC, arXiv 2405.20555, figure 2. Support radius: two standard deviations of a component. The
# temperature is where the dual variable settles in all four sets (0.22 to 0.26).

DAC_PEAK = np.array([0.4, -0.4])


def _dac_energy(actions: np.ndarray) -> np.ndarray:
    return -_norm(actions - DAC_PEAK)


def _dac_problem(
    name: str, description: str, centres: np.ndarray, deviation: float, per_centre: int, modes: bool
) -> Problem:
    return Problem(
        name=f"dac-{name}",
        paper="DAC",
        description=f"{description}; reward: -distance to (0.4, -0.4), off the data",
        temperature=0.24,
        support_radius=2 * deviation,
        generate=_gaussians(centres, deviation, numbered=modes),
        energy=_dac_energy,
        published_size=per_centre * len(centres),
        modes=centres if modes else None,
        mode_radius=3 * deviation,
        max_action=1.0,
        reward_noise=0.5,
    )


def _dac_scaled(points: np.ndarray) -> np.ndarray:
    """Each coordinate to [0, 1.1], then moved by (-0.8, -0.2)."""
    low, high = points.min(axis=0), points.max(axis=0)
    return 1.1 * (points - low) / (high - low) + np.array([-0.8, -0.2])


# --- BDPO, arXiv 2502.04778, sets of Lu et al. 2023 (arXiv 2304.12824).
# Temperature: the paper's figure. Support radius: two standard deviations of the noise in the set's final units.

BDPO_POINTS = 1_000_000
BDPO_TEMPERATURE = 0.06


def _bdpo_problem(
    name: str, description: str, support_radius: float, generate: Generator, energy: Energy, **more
) -> Problem:
    return Problem(
        name=name,
        paper="BDPO",
        description=description,
        temperature=BDPO_TEMPERATURE,
        support_radius=support_radius,
        generate=generate,
        energy=energy,
        published_size=BDPO_POINTS,
        **more,
    )


EIGHT_ANGLES = np.pi / 2 + np.arange(8) * np.pi / 4  # from the top counter-clockwise; the last is upper right
EIGHT_CENTRES = 4.0 / 1.414 * np.stack([np.cos(EIGHT_ANGLES), np.sin(EIGHT_ANGLES)], axis=1)
EIGHT_DEVIATION = 0.5 / 1.414
EIGHT_ENERGIES = np.arange(8) / 7.0


def _eight_gaussians(count: int, rng: np.random.Generator) -> Drawn:
    drawn = _gaussians(EIGHT_CENTRES, EIGHT_DEVIATION)(count, rng)
    return drawn._replace(energy=EIGHT_ENERGIES[np.arange(count) % 8])


MOONS_SCALE, MOONS_SHIFT, MOONS_DEVIATION = 2.0, np.array([-1.0, -0.2]), 0.1


def _moons(count: int, rng: np.random.Generator) -> Drawn:
    points, lower = _two_moons(count)
    noisy = points + MOONS_DEVIATION * rng.standard_normal((count, 2))
    return Drawn(MOONS_SCALE * noisy + MOONS_SHIFT, lower.astype(np.float64))


def _moons_energy() -> Energy:
    points, lower = _two_moons(2 * CURVE_POINTS)
    return _by_nearest(MOONS_SCALE * points + MOONS_SHIFT, lower.astype(np.float64))


SPIRAL_END, SPIRAL_JITTER, SPIRAL_SCALE, SPIRAL_DEVIATION = 3.0 * np.pi, 0.5, 1 / 3, 0.1


def _spiral_arm(angle: np.ndarray) -> np.ndarray:
    return angle[:, None] * np.stack([-np.cos(angle), np.sin(angle)], axis=1)


def _spiral_energies(angle: np.ndarray) -> np.ndarray:
    return np.clip(1.0 - angle / 10.0, 0.0, 1.0)


def _two_spirals(count: int, rng: np.random.Generator) -> Drawn:
    angle = np.sqrt(rng.random(count)) * SPIRAL_END
    arm = _spiral_arm(angle) + SPIRAL_JITTER * rng.random((count, 2))
    side = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)[:, None]  # the second arm is the first one negated
    actions = SPIRAL_SCALE * side * arm + SPIRAL_DEVIATION * rng.standard_normal((count, 2))
    return Drawn(actions, _spiral_energies(angle))


def _spiral_energy() -> Energy:
    angle = np.linspace(0.0, SPIRAL_END, CURVE_POINTS)
    arm = SPIRAL_SCALE * (_spiral_arm(angle) + SPIRAL_JITTER / 2)
    return _by_nearest(np.concatenate([arm, -arm]), np.tile(_spiral_energies(angle), 2))


SWISSROLL_SCALE, SWISSROLL_DEVIATION = 1 / 5, 1.0
SWISSROLL_ENERGY = 1 / 9  # E = SWISSROLL_ENERGY |a|^2


def _swissroll(count: int, rng: np.random.Generator) -> Drawn:
    noise = SWISSROLL_DEVIATION * rng.standard_normal((count, 2))
    return Drawn(SWISSROLL_SCALE * (_roll(_roll_angle(rng.random(count))) + noise))


def _swissroll_energy(actions: np.ndarray) -> np.ndarray:
    return SWISSROLL_ENERGY * np.sum(np.square(actions, dtype=np.float64), axis=1)


def _swissroll_proposal(count: int, rng: np.random.Generator, temperature: float) -> tuple[Drawn, np.ndarray]:
    """The target itself, up to cells of the angle: E is quadratic and the noise Gaussian, so both integrals are known.

    Resampling data would not do: the target lies so far in the data's tail that at 0.06 one point in 5000 counts.
    """
    deviation = SWISSROLL_SCALE * SWISSROLL_DEVIATION
    tilt = SWISSROLL_ENERGY / temperature
    rest = 1.0 - 2.0 * tilt * deviation**2
    if rest <= 0.0:
        low = 2.0 * SWISSROLL_ENERGY * deviation**2
        raise InputError(f"temperature {temperature} of problem 'swissroll': it has a target above {low:.4f} only")

    def log_mass(angle: np.ndarray) -> np.ndarray:
        """log of the integral of N(a; c, deviation^2) exp(tilt |a|^2), c the roll's point at that angle."""
        return tilt * (SWISSROLL_SCALE * angle) ** 2 / rest - np.log(rest)

    cells = 2000
    cell_weight = _normalised(log_mass(_roll_angle((np.arange(cells) + 0.5) / cells)))
    cell = rng.choice(cells, size=count, p=cell_weight)
    angle = _roll_angle((cell + rng.random(count)) / cells)
    mean = SWISSROLL_SCALE * _roll(angle) / rest
    actions = mean + deviation / np.sqrt(rest) * rng.standard_normal((count, 2))
    return Drawn(actions), log_mass(angle) - np.log(cells * cell_weight[cell])


RING_RADII = np.array([3.0, 2.25, 1.5, 0.75])
RING_ENERGIES = np.array([0.667, 0.333, 1.0, 0.0])
RING_DEVIATION = 0.08


def _rings(count: int, rng: np.random.Generator) -> Drawn:
    ring = np.arange(count) % 4
    angle = 2.0 * np.pi * (np.arange(count) // 4) / max(1, count // 4)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    actions = RING_RADII[ring][:, None] * circle + RING_DEVIATION * rng.standard_normal((count, 2))
    return Drawn(actions, RING_ENERGIES[ring])


def _rings_energy(actions: np.ndarray) -> np.ndarray:
    return RING_ENERGIES[np.abs(_norm(actions)[:, None] - RING_RADII).argmin(axis=1)]


SQUARES = np.array([[-3, 1], [-3, -3], [-1, 3], [-1, -1], [1, 1], [1, -3], [3, 3], [3, -1]], np.float64)


def _checkerboard(count: int, rng: np.random.Generator) -> Drawn:
    x, lower = rng.uniform(-2.0, 2.0, count), rng.integers(0, 2, count)
    y = rng.random(count) - 2.0 * lower + np.floor(x) % 2
    column = np.floor(x).astype(np.int64) + 2
    return Drawn(2.0 * np.stack([x, y], axis=1), mode=2 * column + lower)


def _checkerboard_energy(actions: np.ndarray) -> np.ndarray:
    x = actions[:, 0]
    return (((x > 0.0) & (x <= 2.0)) | (x <= -2.0)).astype(np.float64)


# --- the table ----------------------------------------------------------------------------------------------

PROBLEMS: dict[str, Problem] = {
    "25gaussians-far": _grid_problem("far", "reward |a|: the four corners are best", _far),
    "25gaussians-near": _grid_problem("near", "reward -|a|: the centre is best", _near(GRID_FURTHEST)),
    "25gaussians-hard": _grid_problem("hard", "reward |a|, doubled at the upper left corner", _hard, temperature=1.0),
    "25gaussians-same": _grid_problem("same", "no reward: all are best", _same),
    "roll-far": _roll_problem("far", "reward |a|: the outer end is best", _far),
    "roll-near": _roll_problem("near", "reward -|a|: the inner end is best", _near(ROLL_FURTHEST)),
    "roll-same": _roll_problem("same", "no reward", _same),
    "dac-two": _dac_problem("two", "two Gaussians", np.array([[-0.6, 0.6], [0.4, 0.2]]), 0.1, 400, modes=True),
    "dac-three": _dac_problem(
        "three", "three Gaussians, two equally good", np.array([[-0.6, 0.6], [0.4, 0.4], [-0.4, -0.4]]), 0.1, 400, True
    ),
    "dac-moons": _dac_problem("moons", "two moons", _dac_scaled(_two_moons(40)[0]), 0.05, 10, modes=False),
    "dac-circles": _dac_problem("circles", "two circles", _dac_scaled(_two_circles(40)), 0.05, 10, modes=False),
    "8gaussians": _bdpo_problem(
        "8gaussians",
        "eight Gaussians on a circle, energy k / 7 counter-clockwise from the top",
        2 * EIGHT_DEVIATION,
        _eight_gaussians,
        _by_nearest(EIGHT_CENTRES, EIGHT_ENERGIES),
        modes=EIGHT_CENTRES,
        mode_radius=1.0,  # 2.8 standard deviations: the centres are 2.16 apart
    ),
    "moons": _bdpo_problem(
        "moons", "two moons, energy 1 on the lower", 2 * MOONS_SCALE * MOONS_DEVIATION, _moons, _moons_energy()
    ),
    "2spirals": _bdpo_problem(
        "2spirals",
        "two spiral arms, energy falls with the distance along the arm",
        2 * SPIRAL_DEVIATION,
        _two_spirals,
        _spiral_energy(),
    ),
    "swissroll": _bdpo_problem(
        "swissroll",
        "swiss roll, energy |a|^2 / 9",
        2 * SWISSROLL_SCALE * SWISSROLL_DEVIATION,
        _swissroll,
        _swissroll_energy,
        proposal=_swissroll_proposal,
    ),
    "rings": _bdpo_problem("rings", "four rings, the third is best", 2 * RING_DEVIATION, _rings, _rings_energy),
    "checkerboard": _bdpo_problem(
        "checkerboard",
        "eight squares, energy 1 in the first and third column",
        0.1,  # no noise: a twentieth of a square's side, three times the usual distance among 10,000 points
        _checkerboard,
        _checkerboard_energy,
        modes=SQUARES,
        mode_radius=np.sqrt(2.0),  # the square's circumscribed circle
    ),
}


def get_problem(name: str) -> Problem:
    """The problem of that name; raises InputError with the nearest names for an unknown one."""
    if name not in PROBLEMS:
        raise unknown("problem", name, PROBLEMS)
    return PROBLEMS[name]
