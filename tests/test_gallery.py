"""The committed gallery (docs/gallery) holds what its text claims, and was drawn with the settings in force."""

import json
from pathlib import Path
from typing import Any

import pytest

from tether.bandits.gallery import FIGURES, is_drawn, tables

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"


def rows(figure: str, method: str) -> dict[str, dict[str, Any]]:
    """Problem -> scores."""
    document = json.loads((GALLERY / f"{figure}.json").read_text(encoding="utf-8"))
    return {row["problem"]: row for row in document["rows"] if row["method"] == method}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_with_the_settings_in_force(name: str) -> None:
    assert is_drawn(GALLERY, name), f"tether bandit gallery --only {name} --out docs/gallery"


def test_tables_are_those_of_the_figures() -> None:
    assert (GALLERY / "tables.md").read_text(encoding="utf-8") == tables(GALLERY)


def test_the_trust_region_picks_a_best_mode() -> None:
    """DTQL, figure 6: all samples in one best mode, or at the best end of the roll, on the support."""
    found = rows("dtql-6-fair", "dtql")
    assert len(found) == 5
    for problem, row in found.items():
        assert row["off_support"] < 0.1, problem
        if problem.startswith("25"):
            assert row["best_mode_share"] >= 0.95, problem
            assert row["modes_covered"] == 1, problem
        else:
            assert row["mean_energy"] >= row["target_mean_energy"], problem


def test_without_reward_kl_covers_every_mode_and_the_trust_region_one() -> None:
    """DTQL, figure 2."""
    kl, trust_region = (rows("dtql-2", method) for method in ("dtql-kl", "dtql"))
    assert kl["25gaussians-same"]["modes_covered"] == 25
    assert kl["25gaussians-same"]["off_support"] < 0.15
    assert trust_region["25gaussians-same"]["modes_covered"] == 1
    assert trust_region["25gaussians-same"]["off_support"] < 0.01
    for problem in ("25gaussians-same", "roll-same"):
        assert kl[problem]["energy_distance"] < 0.02 * trust_region[problem]["energy_distance"], problem


def test_kl_spreads() -> None:
    """DTQL, figure 3: over more than the four best corners, and more of the roll than its tip."""
    kl = rows("dtql-3", "dtql-kl")
    assert kl["25gaussians-far"]["modes_covered"] > 4
    assert kl["25gaussians-far"]["best_mode_share"] < 0.5
    assert kl["roll-near"]["mean_energy"] < kl["roll-near"]["target_mean_energy"]


def test_soft_guidance_stays_on_the_support() -> None:
    """DAC, figure 2: on all four problems fewer samples off the support than hard guidance, and few."""
    soft, hard, data = rows("dac-2", "dac soft"), rows("dac-2", "dac hard"), rows("dac-2", "data")
    assert len(soft) == 4
    for problem, row in soft.items():
        assert row["off_support"] < 0.1, problem
        assert row["off_support"] < 0.5 * hard[problem]["off_support"], problem
        assert row["mean_energy"] > data[problem]["mean_energy"], problem


def test_bdpo_reaches_its_targets() -> None:
    """The bars that docs/gallery/README.md states for the six energy sets."""
    found = rows("bdpo-5", "bdpo")
    assert len(found) == 6
    for problem, row in found.items():
        assert row["closed"] >= (0.8 if problem == "rings" else 0.95), problem
        assert abs(row["mean_energy"] - row["target_mean_energy"]) <= 0.03, problem
        assert row["value_error"] <= 0.05, problem
