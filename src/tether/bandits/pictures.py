"""Pictures of 2-D policies: where the data lie, what was learned, where the samples go."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tether.bandits.problems import Points, Problem
from tether.bandits.train import Trained
from tether.diffusion import edm, vp
from tether.plots.figures import new_figure, save_figure
from tether.types import Array, Float

__all__ = [
    "Panel",
    "chain",
    "diffusion_value",
    "draw_grid",
    "draw_panel",
    "draw_run",
    "new_panels",
    "q_value",
    "save",
    "trust_region_loss",
    "write_title",
]

PANEL_INCHES, DOTS_PER_INCH = 2.6, 130
TITLE_CHARACTERS_PER_INCH = 15
POINTS_SHOWN, SAMPLES_SHOWN = 2000, 1000
GRID_POINTS = 90  # a side, of a colour map
SAMPLE_COLOURS = ("#D6219C", "#0072B2", "#E69F00")
MARGIN = 0.25  # around the data, of their half width


class Panel(NamedTuple):
    """What one pair of axes shows; None leaves the part out."""

    problem: Problem
    title: str
    data: Points
    samples: Sequence[Float[np.ndarray, "samples action"]] = ()
    labels: Sequence[str] = ()
    field: Float[np.ndarray, "grid grid"] | None = None
    coloured_by_energy: bool = False


def grid(problem: Problem, data: Points) -> tuple[Float[np.ndarray, " grid"], float]:
    """(coordinates of both axes, half width of the picture): the data and a margin."""
    half = float(np.abs(data.actions).max()) * (1.0 + MARGIN)
    return np.linspace(-half, half, GRID_POINTS), half


def _over_grid(trained: Trained, data: Points, value) -> Float[np.ndarray, "grid grid"]:
    """`value`, a function of one action in the networks' units, on the picture's grid."""
    axis, _ = grid(trained.problem, data)
    x, y = np.meshgrid(axis, axis)
    actions = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1) / trained.scale, jnp.float32)
    return np.asarray(jax.jit(jax.vmap(value))(actions)).reshape(x.shape)


def trust_region_loss(trained: Trained, data: Points, sigma: float, draws: int = 64) -> Float[np.ndarray, "grid grid"]:
    """DTQL's loss of an action at one noise level, mean over `draws` noises, on the picture's grid."""
    schedule = edm.EDM(*(getattr(trained.algorithm, name) for name in ("sigma_data", "sigma_min", "sigma_max")))
    level = jnp.asarray(sigma, jnp.float32)
    noises = jax.random.normal(jax.random.key(0), (draws, 2), jnp.float32)

    def loss(action: Float[Array, " action"]) -> Array:
        def error(noise):
            noisy = action + level * noise
            clean = edm.denoise(schedule, trained.state.denoiser, noisy, level, trained.observation, None)
            return jnp.mean((clean - action) ** 2) / edm.scalings(schedule, level).out ** 2

        return jax.vmap(error)(noises).mean()

    return _over_grid(trained, data, loss)


def q_value(trained: Trained, data: Points) -> Float[np.ndarray, "grid grid"]:
    """Mean over the averaged heads of Q on the picture's grid."""
    state = trained.state
    if hasattr(state, "target_critics"):
        q = state.target_critics.q
    else:
        q = state.target_critic if hasattr(state, "target_critic") else state.target_q
    return _over_grid(trained, data, lambda action: q(trained.observation, action).mean())


def diffusion_value(trained: Trained, data: Points, step: int) -> Float[np.ndarray, "grid grid"]:
    """BDPO's V_n on the picture's grid, V_0 = Q."""
    if step == 0:
        return q_value(trained, data)
    value, n = trained.state.target_critics.value, jnp.asarray(step, jnp.int32)
    return _over_grid(trained, data, lambda action: value(trained.observation, action, n).mean())


def chain(trained: Trained, count: int, seed: int = 0) -> Float[np.ndarray, "steps_and_one count action"]:
    """Deterministic denoising paths (DDIM) of the averaged actor, row n is a_n, in the problem's units."""
    schedule = vp.vp_schedule(trained.algorithm.diffusion_steps)
    actor = trained.state.target_actor
    start = jax.random.normal(jax.random.key(seed), (count, 2), jnp.float32)

    def step(noisy, n):
        predicted = jax.vmap(actor, in_axes=(0, None, None))(noisy, trained.observation, n)
        following = jax.vmap(lambda a, e: vp.ddim_step(schedule, a, n, e, None))(noisy, predicted)
        return following, following

    steps = jnp.arange(schedule.steps, 0, -1, jnp.int32)
    _, rest = jax.lax.scan(step, start, steps)
    return np.concatenate([np.asarray(start)[None], np.asarray(rest)])[::-1] * trained.scale


def new_panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure of square panels -> (figure, axes [rows, columns])."""
    figure = new_figure((PANEL_INCHES * columns, PANEL_INCHES * rows), DOTS_PER_INCH)
    return figure, figure.subplots(rows, columns, squeeze=False)


def write_title(figure: Figure, title: str) -> None:
    """Write the title at the upper left, wrapped to the figure's width."""
    lines = textwrap.fill(title, int(figure.get_figwidth() * TITLE_CHARACTERS_PER_INCH))
    figure.suptitle(lines, fontsize=9, x=0.01, ha="left")


def save(figure: Figure, path: Path) -> None:
    """Write the PNG atomically."""
    save_figure(figure, path)


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Colour map, data and samples, as far as the panel has them."""
    axis, half = grid(panel.problem, panel.data)
    if panel.field is not None:
        low, high = np.nanpercentile(panel.field, [2, 98])  # a few far points would take all the colours
        axes.imshow(
            panel.field,
            origin="lower",
            extent=(axis[0], axis[-1], axis[0], axis[-1]),
            cmap="viridis",
            vmin=low,
            vmax=max(high, low + 1e-6),
        )
    shown = panel.data.actions[:: max(1, len(panel.data.actions) // POINTS_SHOWN)]
    if panel.coloured_by_energy:
        energy = panel.data.energy[:: max(1, len(panel.data.actions) // POINTS_SHOWN)]
        axes.scatter(*shown.T, s=2, c=energy, cmap="viridis", linewidths=0)
    elif panel.field is None:
        axes.scatter(*shown.T, s=2, c="#BBBBBB", linewidths=0)
    elif panel.samples:
        axes.scatter(*shown.T, s=1, c="white", alpha=0.5, linewidths=0)
    for index, samples in enumerate(panel.samples):
        # Samples that left the picture are drawn on its edge: nobody should take them for missing.
        inside = np.clip(samples[:SAMPLES_SHOWN], -half * 0.985, half * 0.985)
        label = panel.labels[index] if index < len(panel.labels) else None
        axes.scatter(*inside.T, s=5, c=SAMPLE_COLOURS[index], alpha=0.6, linewidths=0, label=label)
    outside = [float(np.mean(~(np.abs(samples) <= half).all(axis=1))) for samples in panel.samples]
    if max(outside, default=0.0) >= 0.01:
        shares = ", ".join(f"{share:.0%}" for share in outside)
        axes.set_xlabel(f"outside, on the edge: {shares}", fontsize=7)
    axes.set_title(panel.title, fontsize=8)
    axes.set_xlim(-half, half)
    axes.set_ylim(-half, half)
    axes.set_aspect("equal")
    axes.tick_params(length=0, labelsize=6)
    if panel.labels:
        axes.legend(fontsize=6, markerscale=2, loc="upper right")


def draw_grid(path: Path, title: str, panels: Sequence[Sequence[Panel | None]]) -> None:
    """Rows of panels into one PNG; None leaves a place empty."""
    figure, axes = new_panels(len(panels), max(len(row) for row in panels))
    for axes_row, row in zip(axes, panels, strict=True):
        for place, panel in zip(axes_row, [*row, *[None] * (len(axes_row) - len(row))], strict=True):
            if panel is None:
                place.set_axis_off()
            else:
                draw_panel(place, panel)
    write_title(figure, title)
    save(figure, path)


def draw_run(path: Path, trained: Trained, data: Points, target: Points, samples: np.ndarray, title: str) -> None:
    """`tether bandit`: the data by energy, the re-weighted target, the policy's samples over the learned Q."""
    problem = trained.problem
    panels = [
        Panel(problem, "data, coloured by energy", data, coloured_by_energy=True),
        Panel(problem, f"target: data exp(energy / {problem.temperature:g})", data, [target.actions]),
        Panel(problem, "policy, over its Q", data, [samples], field=q_value(trained, data)),
    ]
    draw_grid(path, title, [panels])
