"""Published numbers and verdicts: the table's contents, every branch of the verdict, targets as runs, a small study."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_data import tether

from tether.algorithms import ALGORITHMS
from tether.data import load_dataset
from tether.errors import InputError
from tether.presets import get_preset
from tether.runs.curves import Curves
from tether.studies.reproduce.bands import Number, all_tables, find_table
from tether.studies.reproduce.outcomes import changes_of, last_scores, outcome_of, run_for, scores_at
from tether.studies.reproduce.study import ReproduceOptions, judged, open_reproduction
from tether.studies.reproduce.targets import find_cells, find_numbers, source_of
from tether.studies.reproduce.verdict import Band, band_of, judge
from tether.studies.sweep.jobs import run_job
from tether.studies.sweep.spec import parse_spec, spec_text

# --- the numbers --------------------------------------------------------------------------------------------


def test_numbers_are_the_published_ones() -> None:
    """Some from each source, read from the papers again."""
    known = {
        ("dtql-table-1", "hopper-medium-v2", "DTQL"): (99.6, 0.87),
        ("dtql-table-1", "pen-cloned-v1", "DQL"): (57.3, None),
        ("dac-table-1", "walker2d-medium-expert-v2", "DAC"): (113.6, 3.9),
        ("bdpo-table-1", "antmaze-umaze-diverse-v0", "BDPO"): (83.0, 12.4),
        ("corl-locomotion", "halfcheetah-medium-v2", "TD3+BC"): (48.10, 0.18),
    }
    for (table, task, method), expected in known.items():
        (number,) = find_table(table).find(task, method)
        assert (number.value, number.spread) == expected
    curve = find_table("ogbench-qc").find("scene-play-singletask-task1-v0", "FQL")
    assert [n.updates for n in curve] == list(range(0, 1_000_001, 100_000))  # behind it the run goes on online
    assert (curve[1].value, curve[1].low, curve[1].high) == (36.44, 26.5, 44.0)
    cell = "hopper-medium-v2", "IQL"
    final, best = (find_table("corl-locomotion").find(*cell, protocol=word)[0].value for word in ("last", "best"))
    assert (final or 0) < (best or 0)


def test_every_table_is_whole() -> None:
    for table in all_tables().values():
        assert table.numbers, table.name
        assert set(table.own) <= set(table.methods), table.name
        assert table.source
        assert table.protocol
        assert not table.curve or table.curve in all_tables()
        for number in table.numbers:
            if number.low is not None and number.high is not None and number.value is not None:
                assert number.low - 0.01 <= number.value <= number.high + 0.01
            assert not number.variant or table.own == () or number.variant in table.variants, (table.name, number)
        keys = [number[:5] for number in table.numbers]
        assert len(set(keys)) == len(keys), table.name


def test_averages_of_papers_are_those_of_their_rows() -> None:
    """DTQL's Gym average, BDPO's and DAC's sums: a number that was copied wrongly would show."""
    gym = [f"{robot}-{kind}-v2" for robot in ("halfcheetah", "hopper", "walker2d") for kind in
           ("medium", "medium-replay", "medium-expert")]  # fmt: skip

    def total(table: str, method: str) -> float:
        return sum(find_table(table).find(task, method)[0].value or 0.0 for task in gym)

    assert total("dtql-table-1", "DTQL") / 9 == pytest.approx(88.7, abs=0.05)
    assert total("dac-table-1", "DAC") == pytest.approx(836.4, abs=0.1)
    assert total("bdpo-table-1", "BDPO") == pytest.approx(856.7, abs=0.15)


# --- verdicts -----------------------------------------------------------------------------------------------

BAND = Band(50.0, 45.0, 55.0, "within 5 points")


@pytest.mark.parametrize(
    ("scores", "word", "certain"),
    [
        ([[50.0, 50.5], [49.5, 50.0]], "inside", True),
        ([[30.0, 70.0], [35.0, 65.0]], "inside", False),
        ([[40.0, 41.0], [42.0, 40.0]], "below", True),
        ([[20.0, 60.0], [30.0, 60.0]], "below", False),
        ([[60.0, 61.0], [60.0, 62.0]], "above", True),
        ([[40.0, 80.0], [45.0, 75.0]], "above", False),
    ],
)
def test_words(scores: list[list[float]], word: str, certain: bool) -> None:
    found = judge(np.array(scores), BAND)
    assert (found.word, found.certain) == (word, certain)
    assert found.measured == pytest.approx(np.mean(scores))
    assert (found.low or 0) <= (found.measured or 0) <= (found.high or 0)
    assert found.band == BAND
    assert "50.0 (45.0 to 55.0: within 5 points)" in found.reason
    assert json.loads(json.dumps(found.to_json()))["word"] == word


def test_what_cannot_be_compared() -> None:
    assert judge(None, BAND).reason == "nothing is measured yet"
    assert judge(np.zeros((0, 0)), BAND, obstacle="not run").reason == "not run"
    both = np.array([[50.0, 50.0], [np.nan, 50.0]])
    assert judge(both[1:], BAND).reason == "all 1 seeds diverged or were not evaluated"
    partly = judge(both, BAND, reservations=("other data",))
    assert partly.word == "inside"
    assert partly.reservations[:2] == ("other data", "1 of 2 seeds diverged or were not evaluated, and are left out")
    assert "one seed" in partly.reservations[2]
    short = judge(both[:1], BAND, obstacle="10 of 20 updates")
    assert (short.word, short.reason, short.measured) == ("not comparable", "10 of 20 updates", 50.0)
    assert judge(both[:1], "a picture only").reason == "a picture only"
    with pytest.raises(InputError, match="seeds, episodes"):
        judge(np.zeros(3), BAND)


def test_bands() -> None:
    table = find_table("corl-locomotion")
    number = Number("t", "m", "", "", None, 50.0, 2.0, None, None)
    assert band_of(number, table)[:3] == (50.0, 46.0, 54.0)
    assert band_of(number._replace(spread=None), table) == "its spread is not published"
    assert band_of(number, find_table("bdpo-table-1"))[:3] == (50.0, 45.0, 55.0)
    assert band_of(number._replace(low=40.0, high=51.0), find_table("ogbench-qc"))[:3] == (50.0, 40.0, 51.0)
    assert band_of(number, find_table("ogbench-qc")) == "its interval is not published"
    assert "picture" in band_of(number._replace(value=None), table)
    assert "costs of another machine" in band_of(number, find_table("dtql-table-7"))


def test_scores_around_an_update() -> None:
    updates = np.arange(10, 80, 10)
    scores = np.broadcast_to(updates[None, :, None], (2, 7, 3)).astype(float)
    curves = Curves(updates, scores, scores, scores, {})
    assert scores_at(curves, 35) is None
    np.testing.assert_array_equal(scores_at(curves, 30), 30.0)
    for update in updates.tolist():  # of a straight line the mean is the middle, wherever the run begins and ends
        assert scores_at(curves, update, 5, 10).mean() == update
    assert [scores_at(curves, 40, 5, every).shape[1] // 3 for every in (10, 5, 4)] == [5, 3, 1]  # within 20, 10, 8


def test_the_last_scores_are_of_as_many_evaluations_as_published_and_no_older_ones() -> None:
    table = find_table("dac-table-1")  # a mean of 5, 10,000 updates apart
    for every, values in ((10_000, [20.0, 30.0, 40.0, 50.0, 60.0]), (20_000, [40.0, 50.0, 60.0]), (200_000, [60.0])):
        updates = np.arange(1, 7) * every
        scores = np.broadcast_to(np.arange(10.0, 70.0, 10.0)[None, :, None], (2, 6, 3))
        found = last_scores(Curves(updates, scores, scores, scores, {}), table)
        np.testing.assert_array_equal(found, np.tile(np.repeat(values, 3), (2, 1)))


def test_every_table_of_points_along_training_is_judged_by_them() -> None:
    for table in all_tables().values():
        if table.band and table.own and all(number.updates is not None for number in table.numbers):
            assert table.curve == table.name


def test_what_is_published_without_spread_is_said() -> None:
    one_failed = np.array([[100.0] * 49 + [0.0]])
    verdict = judge(one_failed, Band(100.0, 100.0, 100.0, "the published interval"))
    assert verdict.word == "below"
    assert not verdict.certain
    assert "published without any spread: a single episode decides" in verdict.reservations


# --- targets ------------------------------------------------------------------------------------------------


def test_targets() -> None:
    table = find_cells("dtql-table-1")
    assert len(table) == 20
    assert {cell.algorithm for cell in table} == {"dtql"}
    (cell,) = find_cells("dtql-table-1/hopper-medium-v2")
    assert (cell.preset, cell.published_updates, cell.obstacle) == ("hopper-medium-v2", 1_000_000, "")
    (other,) = find_cells("dtql-table-1/hopper-medium-v2/IQL")
    assert other.algorithm == "iql"
    assert len(find_cells("corl-locomotion")) == 72
    percent = find_cells("corl-locomotion/hopper-medium-v2/10% BC")[0]
    assert (percent.algorithm, percent.options["data_filter"]) == ("bc", "top=0.1")
    for method, algorithm in (("FQL", "fql"), ("BFN", "best-of-n")):
        cells = [cell for cell in find_cells("ogbench-qc/scene-play") if cell.method == method]
        assert [cell.task for cell in cells] == [f"scene-play-singletask-task{i}-v0" for i in range(1, 6)]
        assert {(cell.algorithm, cell.obstacle) for cell in cells} == {(algorithm, "")}
    scene, cube = find_cells("ogbench-qc/scene-play")[0], find_cells("ogbench-qc/cube-double-play")[0]
    assert scene.options == {"preset": "scene-play-singletask-v0", "reward_transform": "sparse"}
    assert "reward_transform" not in cube.options
    for target, words in (
        ("dtql-tabel-1", "did you mean dtql-table-1"),
        ("dtql-table-1/hoper-medium-v2", "nothing in dtql-table-1 is called"),
    ):
        with pytest.raises(InputError, match=words):
            find_cells(target)


@pytest.mark.parametrize(
    ("cell", "algorithm", "framing", "settings"),
    [
        ("puzzle-3x3-play-singletask-task4-v0/FQL", "fql", (1, 1), {"distillation_weight": 100.0}),
        ("scene-play-singletask-task4-v0/FQL-n", "fql", (1, 5), {"distillation_weight": 100.0}),
        ("puzzle-3x3-play-singletask-task4-v0/QC-FQL", "fql", (5, 1), {"distillation_weight": 300.0}),
        ("cube-triple-play-singletask-task2-v0/QC-FQL", "fql", (5, 1), {"distillation_weight": 100.0}),
        ("scene-play-singletask-task2-v0/BFN-n", "best-of-n", (1, 5), {"candidates": 4, "next_candidates": 4}),
        ("puzzle-3x3-play-singletask-task2-v0/QC", "best-of-n", (5, 1), {"candidates": 64, "next_candidates": 64}),
        ("scene-play-singletask-task2-v0/QC-IFQL", "ifql", (5, 1), {"candidates": 32}),
    ],
)
def test_chunks_and_n_steps_are_those_of_the_paper(
    tmp_path: Path, cell: str, algorithm: str, framing: tuple[int, int], settings: dict[str, Any]
) -> None:
    """QC's tables 4 and 5, down to what `tether train` would be told."""
    study = open_reproduction(ReproduceOptions(f"ogbench-qc/{cell}", tmp_path, data=tmp_path, seeds=1))
    (job,) = study.spec.jobs
    made, arguments, _ = job.request().resolve()
    found = arguments["framing"]
    assert (job.algorithm, found.chunk, found.n_step) == (algorithm, *framing)
    assert {name: getattr(made, name) for name in settings} == settings
    assert made.train_updates == 1_000_000


def test_a_run_with_chunks_is_of_the_cell_with_chunks(tmp_path: Path) -> None:
    task = "scene-play-singletask-task2-v0"
    cells = find_cells(f"ogbench-qc/{task}")
    assert {cell.method for cell in cells} == {"FQL", "BFN", "QC-FQL", "QC"}
    for chunk, method in ((1, "FQL"), (5, "QC-FQL")):
        data = {"dataset": task, "framing": {"chunk": chunk, "n_step": 1, "history": 1}}
        config = {"algorithm": "fql", "hyperparameters": {"distillation_weight": 300.0}, "data": data, "lanes": []}
        (tmp_path / "config.json").write_text(json.dumps(config))
        cell = run_for(cells, tmp_path)
        assert cell.method == method
        assert changes_of(cell, config) == []
    (steps,) = find_cells(f"ogbench-qc/{task}/FQL-n")
    assert changes_of(steps, config) == ["distillation_weight 300.0 (100.0)", "chunk 5 (1)", "n_step 1 (5)"]


def test_what_cannot_be_run_says_why() -> None:
    (cell,) = find_cells("ogbench-qc/scene-play-singletask-task1-v0/SUPE-GT")
    assert cell.obstacle == "tether has no algorithm SUPE-GT"
    (quadruple,) = find_cells("ogbench-qc/cube-quadruple-play-singletask-task1-v0/FQL")
    assert "QC trained on 100,000,000 rows" in quadruple.obstacle
    assert "no preset of iql" in find_cells("ogbench-qc/scene-play-singletask-task1-v0/IQL")[0].obstacle
    assert "nothing here is trained for" in find_cells("dtql-table-7/hopper-medium-v2")[0].obstacle
    with pytest.raises(InputError, match="nothing of it can be run"):
        open_reproduction(ReproduceOptions("dtql-table-7", Path("none"))).open()


def test_ablations_change_what_they_say() -> None:
    """Every variant of every table is a hyper-parameter or preset that there is."""
    for table in all_tables().values():
        for cell in find_cells(table.name) if table.variants else ():
            if cell.obstacle:
                continue
            fields = {"pretrain_updates", *(f for f in get_preset(cell.algorithm, cell.preset))}
            assert set(cell.hyperparameters) <= fields | set(ALGORITHMS[cell.algorithm].__dataclass_fields__)
    (cell,) = find_cells("bdpo-actor/hopper-medium-v2/deterministic")
    assert (cell.algorithm, cell.preset) == ("bdpo-unimodal", "hopper-medium-v2-deterministic")
    (cell,) = find_cells("dac-guidance/walker2d-medium-v2/hard")
    assert cell.hyperparameters == {"guidance": "hard"}
    study = open_reproduction(ReproduceOptions("dtql-table-3/no pretraining", Path("none")))
    assert [job.options["pretrain_updates"] for job in study.spec.jobs] == [0, 0, 0]


def test_a_part_of_a_run_keeps_the_published_schedule(tmp_path: Path) -> None:
    study = open_reproduction(ReproduceOptions("dac-table-1/halfcheetah-medium-v2", tmp_path, updates=100_000, seeds=1))
    (job,) = study.spec.jobs
    algorithm, arguments, preset = job.request().resolve()
    assert (algorithm.train_updates, algorithm.decay_updates, preset) == (100_000, 2_000_000, "halfcheetah-medium-v2")
    assert arguments["options"].eval_every_updates == 10_000
    assert (algorithm.ensemble_size, algorithm.candidates) == (10, 10)
    whole = open_reproduction(ReproduceOptions("dac-table-1/halfcheetah-medium-v2", tmp_path)).spec.jobs[0]
    algorithm, arguments, _ = whole.request().resolve()
    assert (algorithm.train_updates, algorithm.decay_updates) == (2_000_000, None)
    assert len(whole.lanes) == 3


def test_data_are_found_by_name(tmp_path: Path) -> None:
    (cell,) = find_cells("corl-locomotion/hopper-medium-v2/IQL")
    assert source_of(cell, None) == "d4rl:hopper-medium-v2"
    assert source_of(cell, tmp_path) == "d4rl:hopper-medium-v2"
    (tmp_path / "hopper").mkdir()
    (tmp_path / "hopper" / "hopper-medium.hdf5").touch()
    assert source_of(cell, tmp_path) == str(tmp_path / "hopper" / "hopper-medium.hdf5")
    scene = find_cells("ogbench-qc/scene-play-singletask-task3-v0")[0]
    assert source_of(scene, None) == "ogbench:scene-play-singletask-task3-v0"
    assert source_of(scene, tmp_path) == f"ogbench:{tmp_path}/scene-play-singletask-task3-v0"
    missing = open_reproduction(ReproduceOptions("ogbench-qc/puzzle-3x3-play", tmp_path / "out", data=tmp_path))
    assert missing.missing_data() == [("puzzle-3x3-play-v0", tmp_path)]


# --- a study ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file that stands in for halfcheetah-medium."""
    folder = tmp_path_factory.mktemp("data")
    small = load_dataset("halfcheetah-medium-replay-small")
    rows = slice(0, 2000)
    small.replace(
        name="halfcheetah-medium", observations=small.observations[rows], actions=small.actions[rows],
        rewards=small.rewards[rows], terminals=small.terminals[rows], timeouts=small.timeouts[rows],
    ).to_hdf5(folder / "halfcheetah-medium.hdf5")  # fmt: skip
    return folder


def options(out: Path, data: Path, **changes: Any) -> ReproduceOptions:
    small = {"hidden_sizes": "8,8"}
    given = {"seeds": 2, "updates": 20, "eval_episodes": 1, "data": data, "hyperparameters": small}
    return ReproduceOptions("corl-locomotion/halfcheetah-medium-v2/BC", out, **given | changes)


def test_a_study(tmp_path: Path, data: Path) -> None:
    """Trained as a sweep, and judged: too short to be compared, with its score and what else is not the same."""
    study = open_reproduction(options(tmp_path, data))
    folder = study.open()
    for job in folder.unfinished():
        run_job(job, folder.run_folder(job))
    (found,) = study.outcomes()
    assert found.updates == 20
    assert found.verdict.word == "not comparable"
    assert "20 of 1,000,000 updates, and no curve is published" in found.verdict.reason
    assert found.verdict.measured is not None
    notes = " ".join(found.verdict.reservations)
    assert "not the published setting: hidden_sizes [8, 8] ((256, 256))" in notes
    assert "halfcheetah-medium.hdf5" in notes
    assert "mujoco" in notes
    again = open_reproduction(options(tmp_path, data)).open()
    assert again.unfinished() == []
    for changes, difference in (
        ({"seeds": 3}, "lanes seed 0; seed 1, not seed 0; seed 1; seed 2"),
        ({"updates": 10}, "eval_every_updates 20, not 10, updates 20, not 10"),
        ({"precision": "bfloat16"}, "precision float32, not bfloat16"),
    ):
        with pytest.raises(InputError, match=rf"holds another sweep: in job \S+ {difference}; name another folder$"):
            open_reproduction(options(tmp_path, data, **changes)).open()
        with pytest.raises(InputError, match="holds another sweep"):  # nor are verdicts written over those of others
            open_reproduction(options(tmp_path, data, **changes)).check_folder()
    (judgement,) = judged("corl-locomotion/halfcheetah-medium-v2/BC", [found.run])
    assert judgement.cell.name == found.cell.name
    with pytest.raises(InputError, match="not one cell of the target"):
        judged("corl-locomotion/hopper-medium-v2", [found.run])
    code, out, err = tether("reproduce", "corl-locomotion/halfcheetah-medium-v2/BC", "--runs", str(found.run))
    assert (code, err) == (0, "")
    assert "not comparable" in out


@pytest.mark.long
def test_ogbench_is_regenerated_trained_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: data that are missing, sparse rewards, success as the score, a verdict at a published update."""
    from tether.collect.recipes import RECIPES

    name = "puzzle-3x3-play-v0"
    monkeypatch.setitem(RECIPES, name, RECIPES[name]._replace(steps=101, episodes=4))
    monkeypatch.setenv("TETHER_CORES", "1")
    small = {"hidden_sizes": "8,8"}
    how = {"seeds": 1, "updates": 4, "eval_episodes": 1, "hyperparameters": small}
    study = open_reproduction(ReproduceOptions("ogbench-qc/puzzle-3x3-play-singletask-task1-v0/FQL", tmp_path, **how))
    assert study.missing_data() == [(name, tmp_path / "data")]
    folder = study.open()
    study.fetch(quiet=True, command="")
    monkeypatch.setattr("tether.runs.config.check_rewards", lambda *_: None)  # so few rows hold no success
    (job,) = folder.unfinished()
    run_job(job, folder.run_folder(job))
    (found,) = study.outcomes()
    assert found.config["data"]["reward_transform"]["name"] == "sparse"
    assert found.config["score"] == "success rate"
    assert found.verdict.measured in (0.0, 100.0)
    assert found.verdict.word == "not comparable"
    notes = " ".join(found.verdict.reservations)
    assert "regenerated, not OGBench's file" in notes
    assert "hidden_sizes" in notes


def test_a_curve_is_compared_at_its_updates(tmp_path: Path) -> None:
    """A run of DAC that was evaluated up to 100,000 updates against the published curve, without training one."""
    (cell,) = find_cells("dac-table-1/halfcheetah-medium-v2")
    config = {"algorithm": "dac", "lanes": [{"seed": 0}, {"seed": 1}]}
    config["data"] = {"dataset": "halfcheetah-medium-v2", "source": "d4rl:halfcheetah-medium-v2"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"versions": {"mujoco": "3.3"}}))
    rows = [
        {"update": update, "lane": lane, "episode": e, "return": 0.0, "length": 9, "normalized_score": score + e}
        for update, score in ((update, 6.0 if update <= 70_000 else 54.0) for update in range(10_000, 130_000, 10_000))
        for lane in range(2)
        for e in range(2)
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = outcome_of(cell, tmp_path)
    assert [m.updates for m in found.milestones] == [50_000, 100_000]
    assert found.verdict.word == "inside"
    assert found.published == 54.0
    assert found.updates == 120_000
    assert not any("regenerated" in note for note in found.verdict.reservations)
    assert " at 100,000 updates is inside 54.0 " in found.verdict.reason


def forged(folder: Path, task: str, rows: list[tuple[int, int, float]], **changes: Any) -> Path:
    """A run of IQL on a task of CORL's; rows: update, lane, score."""
    lanes = changes.pop("lanes", [{"seed": lane, "settings": {}} for lane in sorted({lane for _, lane, _ in rows})])
    config = {"algorithm": "iql", "lanes": lanes, "data": {"dataset": task, "source": f"d4rl:{task}"}, **changes}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"update": update, "lane": lane, "episode": 0, "return": 0.0, "length": 9, "normalized_score": score}
        for update, lane, score in rows
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return folder


def test_what_a_run_is_judged_by(tmp_path: Path) -> None:
    hopper = find_cells("corl-locomotion/hopper-medium-v2/IQL")
    last = 1_000_000
    other = forged(tmp_path / "other", "walker2d-medium", [(last, 0, 67.0)], notes={"preset": "hopper-medium-v2"})
    with pytest.raises(InputError, match="iql on walker2d-medium is not one cell"):
        run_for(hopper, other)
    assert run_for(hopper, forged(tmp_path / "own", "my-logs", [(last, 0, 67.0)])) == hopper[0]  # as asked
    lanes = [{"seed": 0, "settings": {"expectile": value}} for value in (0.9, 0.7)]
    swept = forged(tmp_path / "swept", "hopper-medium-v2", [(last, 0, 67.0), (last, 1, 20.0)], lanes=lanes)
    found = outcome_of(hopper[0], swept).verdict
    assert (found.word, found.measured) == ("not comparable", None)
    assert "2 settings of a sweep over expectile" in found.reason
    longer = forged(tmp_path / "longer", "hopper-medium-v2", [(last, 0, 10.0), (3 * last, 0, 67.0)], environment="ant")
    outcome = outcome_of(hopper[0], longer)
    assert (outcome.verdict.word, outcome.verdict.measured, outcome.updates) == ("below", 10.0, last)
    notes = outcome.verdict.reservations
    assert any("trained on to 3,000,000" in note for note in notes)
    assert any("evaluated in ant, not in hopper" in note for note in notes)
    dtql = find_cells("dtql-table-1/hopper-medium-v2")[0]
    rows = [(500_000, 0, 99.0), (last, 0, 50.0)]
    ended = forged(tmp_path / "best", "hopper-medium-v2", rows, algorithm="dtql")
    assert outcome_of(dtql, ended, "best").verdict.measured == 50.0  # the table has one protocol, the last
    for text in ("[1, 2]", '{"algorithm": "iql", "lanes": [], "data": null}', '{"lanes": []}'):
        (ended / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json"):
            run_for(hopper, ended)


def test_a_published_curve_ends_where_its_runs_go_online() -> None:
    task = "ogbench-qc/scene-play-singletask-task2-v0/FQL"
    assert outcome_of(find_cells(task)[0], None).published == 51.51
    assert find_cells("OGBench-qc/Scene-Play-singletask-task2-v0/fql") == find_cells(task)
    with pytest.raises(InputError, match="nothing in dtql-table-1/hopper-medium-v2/DQL is called 'DTQL'"):
        find_numbers("dtql-table-1/hopper-medium-v2/DQL/DTQL")
    for wrong, words in (({"updates": 2_000_000}, "have 1,000,000"), ({"data": Path("none")}, "no such folder")):
        with pytest.raises(InputError, match=words):
            open_reproduction(ReproduceOptions("corl-locomotion/hopper-medium-v2/IQL", Path("none"), **wrong))
    with pytest.raises(InputError, match="means over tasks"):
        find_cells("ogbench-qc/scene-play-singletask-mean/FQL")


def test_one_episode_is_no_certainty() -> None:
    assert not judge(np.array([[10.0]]), Band(50.0, 45.0, 55.0, "")).certain
    assert judge(np.array([[10.0, 10.5]]), Band(50.0, 45.0, 55.0, "")).certain


def test_a_fine_tuned_run_is_not_what_was_published(tmp_path: Path) -> None:
    (cell,) = find_cells("corl-locomotion/halfcheetah-medium-v2/TD3+BC")
    config = {"algorithm": "td3-bc", "lanes": [{"seed": 0}], "data": {"dataset": "halfcheetah-medium-v2"}}
    config["finetuning"] = {"parent": {"folder": "run", "update": 10}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = outcome_of(cell, tmp_path)
    assert (found.verdict.word, found.verdict.measured) == ("not comparable", None)
    assert "fine-tuned in its environment" in found.verdict.reason


@pytest.mark.parametrize(
    ("target", "algorithm", "episodes", "horizon"),
    [
        ("corl-locomotion/hopper-medium-v2/IQL", "iql", 10, 1000),
        ("ogbench-qc/scene-play-singletask-task2-v0/FQL", "fql", 50, 750),
    ],
)
def test_an_evaluation_unlike_the_published_one_is_named(
    tmp_path: Path, target: str, algorithm: str, episodes: int, horizon: int
) -> None:
    pytest.importorskip("ogbench")
    (cell,) = find_cells(target)

    def notes(**how: Any) -> list[str]:
        run = forged(tmp_path / str(how["horizon"]), cell.task, [(1_000_000, 0, 50.0)], algorithm=algorithm, **how)
        said = outcome_of(cell, run).verdict.reservations
        return [note for note in said if ", published: " in note]

    assert notes(settings={"eval_episodes": episodes}, horizon=horizon) == []
    assert notes(settings={"eval_episodes": 2}, horizon=200) == [
        f"evaluated by 2 episodes, published: {episodes}",
        f"evaluated in episodes of 200 steps, published: {horizon}",
    ]


def test_every_departure_from_the_published_setting_is_named() -> None:
    (cell,) = find_cells("dac-table-1/halfcheetah-medium-v2")
    length = {"cosine_decay": True, "decay_updates": None, "train_updates": 2_000_000}
    config: dict[str, Any] = {"hyperparameters": length, "data": {"holdout": {"name": "none"}}}
    assert changes_of(cell, config) == []
    for name, own, words in (
        ("hyperparameters", {"train_updates": 100_000}, "decay_updates 100000 (2000000)"),  # it decays over its length
        ("data", {"holdout": {"name": "0.5"}}, "holdout 0.5 (none)"),
    ):
        assert changes_of(cell, config | {name: config[name] | own}) == [words]
    part = {"train_updates": 100_000, "decay_updates": 2_000_000}
    assert changes_of(cell, config | {"hyperparameters": config["hyperparameters"] | part}) == []


@pytest.mark.parametrize(("lost", "word"), [((0,), "inside"), ((0, 1), "not comparable")])
def test_a_run_that_diverged_says_so_and_never_succeeds(tmp_path: Path, lost: tuple[int, ...], word: str) -> None:
    target, last = "corl-locomotion/hopper-medium-v2/IQL", 1_000_000
    rows = [(500_000, 0, 67.0), (500_000, 1, 67.0), (last, 1, 67.0)]
    run = forged(tmp_path / "run", "hopper-medium-v2", rows, notes={"preset": "hopper-medium-v2"})
    lanes = [{"seed": seed, "diverged": f"train {seed}000" if seed in lost else None} for seed in (0, 1)]
    (run / "result.json").write_text(json.dumps({"status": "partly-diverged", "lanes": lanes}))
    outcome = outcome_of(find_cells(target)[0], run)
    assert outcome.verdict.word == word
    assert any(f"{len(lost)} of 2 seeds diverged: seed 0 at train 0" in note for note in outcome.verdict.reservations)
    assert ("diverged: seed 0" in outcome.verdict.reason) == (word == "not comparable")
    code, out, _ = tether("reproduce", target, "--runs", str(run))
    assert code == 1
    assert "diverged" in out


def test_the_protocol_that_is_asked_for_is_shown() -> None:
    (cell,) = find_cells("corl-locomotion/hopper-medium-v2/IQL")
    assert outcome_of(cell, None).published == 67.53
    assert outcome_of(cell, None, "best").published == 80.46


def test_commands(tmp_path: Path, data: Path) -> None:
    assert "ogbench-qc" in tether("reproduce", "--list")[1]
    listed = tether("reproduce", "bdpo-curve/halfcheetah-medium-v2", "--list")[1]
    assert "60.4" in listed
    assert "licence" in listed
    target = "corl-locomotion/halfcheetah-medium-v2/TD3+BC"
    code, out, err = tether(
        "reproduce", target, "--dry-run", "--data", str(data), "--updates", "1000", "--out", str(tmp_path / "study")
    )
    assert (code, err) == (0, "")
    assert "td3-bc" in out
    assert not (tmp_path / "study").exists()
    code, out, err = tether("reproduce", target, "--verdict", "--data", str(data), "--out", str(tmp_path / "study"))
    assert code == 0
    assert "not run yet" in out
    assert tether("reproduce", target, "--ray", "--slurm")[0] == 2


def test_specs_with_single_runs(tmp_path: Path) -> None:
    small = "halfcheetah-medium-small"
    first = {"algorithm": "bc", "dataset": small, "options": {"updates": 5}, "set": {"learning_rate": 0.1}}
    table = {"seeds": 2, "runs": [first, {"algorithm": "iql", "dataset": small}], "options": {"updates": 7}}
    spec = parse_spec(spec_text(table), tmp_path / "spec.toml")
    assert [(job.algorithm, job.options["updates"], len(job.lanes)) for job in spec.jobs] == [
        ("bc", 5, 2),
        ("iql", 7, 2),
    ]
    for text, words in (
        ('[[runs]]\nalgorithm = "bc"', "needs an algorithm and a dataset"),
        ('[[runs]]\nalgorithm = "bc"\ndataset = "x"\nsed = {}', "unknown entry of"),
        ("runs = 3", r"must be tables: \[\[runs\]\]"),
    ):
        with pytest.raises(InputError, match=words):
            parse_spec(text, tmp_path / "spec.toml")
