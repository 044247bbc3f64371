"""Interquartile mean and two-level bootstrap against known answers."""

import numpy as np
import pytest

from tether.errors import InputError
from tether.evaluation.statistics import (
    Summary,
    aggregate,
    interquartile_mean,
    statistic_of,
    stratified_bootstrap_interval,
)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 3.0], 2.0),
        ([0.0, 0.0, 9.0], 3.0),  # fewer than four: nothing is left out
        ([-100.0, 1.0, 3.0, 100.0], 2.0),
        ([5.0, 4.0, 3.0, 2.0, 100.0], 4.0),  # 3 of 5
        ([0.0, 1.0, 2.0, 3.0, 4.0, 50.0], 2.5),  # 4 of 6
        ([8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 4.5),  # 4 of 8
    ],
)
def test_interquartile_mean_by_hand(scores: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(scores)) == pytest.approx(expected)


def test_interquartile_mean_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for size in range(1, 40):
        scores = generator.normal(size=(3, size))
        assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
        np.testing.assert_allclose(interquartile_mean(scores, axis=1), stats.trim_mean(scores, 0.25, axis=1))
        np.testing.assert_allclose(interquartile_mean(scores, axis=0), stats.trim_mean(scores, 0.25, axis=0))


def test_interquartile_mean_does_not_lose_nan() -> None:
    assert np.isnan(interquartile_mean(np.array([1.0, 2.0, 3.0, np.nan])))
    with pytest.raises(InputError, match="at least one"):
        interquartile_mean(np.zeros((0, 3)))


def test_interval_follows_shift_and_scale() -> None:
    scores = np.random.default_rng(1).normal(size=(5, 10))
    low, high = stratified_bootstrap_interval(scores, np.mean, seed=3)
    moved = stratified_bootstrap_interval(100 + 10 * scores, np.mean, seed=3)
    assert low < scores.mean() < high
    assert moved == pytest.approx((100 + 10 * low, 100 + 10 * high))


def test_interval_is_a_function_of_its_seed_and_widens_with_confidence() -> None:
    scores = np.random.default_rng(1).normal(size=(5, 10))
    first = stratified_bootstrap_interval(scores, interquartile_mean, seed=0)
    assert first == stratified_bootstrap_interval(scores, interquartile_mean, seed=0)
    assert first != stratified_bootstrap_interval(scores, interquartile_mean, seed=1)
    low, high = stratified_bootstrap_interval(scores, interquartile_mean, confidence=0.5)
    assert first[0] < low < high < first[1]


def test_chunks_hold_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    from tether.evaluation import statistics

    monkeypatch.setattr(statistics, "CHUNK", 120)  # 3 resamples at once, the last chunk with 1
    counts = []

    def mean(scores: np.ndarray, axis: int) -> np.ndarray:
        counts.append(scores.shape)
        return scores.mean(axis)

    stratified_bootstrap_interval(np.ones((4, 10)), mean, resamples=10)
    assert counts == [(3, 40), (3, 40), (3, 40), (1, 40)]


def test_width_has_both_levels() -> None:
    """The variance of a resampled mean: var(lane means) / lanes + mean(var within) / (lanes * episodes)."""
    generator = np.random.default_rng(2)
    scores = generator.normal(size=(6, 1)) * 3 + generator.normal(size=(6, 8))
    variance = scores.mean(1).var() / 6 + scores.var(1).mean() / (6 * 8)
    low, high = stratified_bootstrap_interval(scores, np.mean, confidence=0.6827, resamples=20_000)
    assert (high - low) / 2 == pytest.approx(np.sqrt(variance), rel=0.04)


def test_single_lane_resamples_its_episodes() -> None:
    scores = np.random.default_rng(3).normal(size=(1, 400))
    low, high = stratified_bootstrap_interval(scores, np.mean)
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.1)


@pytest.mark.parametrize(("lanes", "least", "most"), [(5, 0.74, 0.90), (20, 0.89, 0.97)])
def test_coverage_on_gaussian_lanes(lanes: int, least: float, most: float) -> None:
    """Few lanes give too narrow an interval, as documented; 20 come near the nominal 95 %."""
    generator, repetitions, hits = np.random.default_rng(4), 400, 0
    for repetition in range(repetitions):
        scores = np.repeat(generator.normal(size=(lanes, 1)), 2, axis=1)
        low, high = stratified_bootstrap_interval(scores, np.mean, resamples=500, seed=repetition)
        hits += low <= 0 <= high
    assert least <= hits / repetitions <= most


def test_coverage_with_noisy_episodes() -> None:
    generator, repetitions, hits = np.random.default_rng(5), 300, 0
    for repetition in range(repetitions):
        scores = generator.normal(size=(10, 1)) + generator.normal(size=(10, 10))
        low, high = stratified_bootstrap_interval(scores, interquartile_mean, resamples=300, seed=repetition)
        hits += low <= 0 <= high
    assert 0.86 <= hits / repetitions <= 0.97


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 4)])
def test_constant_scores_have_no_width(shape: tuple[int, int]) -> None:
    lanes, episodes = shape
    assert aggregate(np.full(shape, 2.5)) == Summary(2.5, 2.5, 2.5, 2.5, lanes, episodes, "mean")


def test_aggregate() -> None:
    scores = np.arange(12, dtype=np.int64).reshape(3, 4)
    summary = aggregate(scores)
    assert (summary.iqm, summary.mean, summary.lanes, summary.episodes, summary.statistic) == (5.5, 5.5, 3, 4, "IQM")
    assert summary.ci95_low < 5.5 < summary.ci95_high
    assert all(type(value) is float for value in (summary.iqm, summary.ci95_low, summary.mean))


def test_successes_are_summed_up_by_their_mean() -> None:
    """Their middle half would be the commoner outcome: nothing of 6 successes in 50."""
    scores = np.zeros((2, 25))
    scores[0, :5] = scores[1, 0] = 100.0
    summary = aggregate(scores)
    assert interquartile_mean(scores) == 0
    assert (summary.iqm, summary.mean, summary.statistic) == (12.0, 12.0, "mean")
    assert 0 <= summary.ci95_low < 12 < summary.ci95_high
    low, high = stratified_bootstrap_interval(scores, np.mean)
    assert (summary.ci95_low, summary.ci95_high) == (low, high)
    scores[0, 0] = np.nan
    assert statistic_of(scores) is np.mean


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.array([[1.0, 2.0], [np.nan, np.nan], [np.inf, 1.0]]), r"lanes \[1, 2\]"),
        (np.ones(3), "shape"),
        (np.ones((2, 0)), "shape"),
        (np.ones((0, 2)), "shape"),
    ],
)
def test_unfit_scores_are_refused(scores: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aggregate(scores)


@pytest.mark.parametrize("settings", [{"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}])
def test_unfit_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="confidence"):
        stratified_bootstrap_interval(np.ones((2, 2)), np.mean, **settings)
