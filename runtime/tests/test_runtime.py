"""tether-runtime without JAX and without tether: run by `pytest runtime/tests`, on every Python from 3.9."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tether_runtime
from tether_runtime import InputError
from tether_runtime.columns import join
from tether_runtime.support import Support
from tether_runtime.trust import Judge

EXPORTS = Path(__file__).parent / "exports"
SOURCES = sorted(Path(tether_runtime.__file__).parent.rglob("*.py"))
FORMS = ["numpy", *(["onnx"] if importlib.util.find_spec("onnxruntime") else [])]
OBSERVATIONS = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["bc", "dtql"])
def test_a_batch_is_its_rows(name: str, form: str):
    policy = tether_runtime.load(EXPORTS / f"{name}-{form}")
    noise = policy.noise(6, seed=2)
    batch = policy(OBSERVATIONS, noise=noise)
    assert batch.shape == (6, 2)
    assert batch.dtype == np.float32
    for row, own in enumerate(zip(*noise)):
        one = policy(OBSERVATIONS[row], noise=own)
        assert one == pytest.approx(batch[row], abs=1e-5)
    if not noise:
        assert policy(OBSERVATIONS[0]) == pytest.approx(batch[0], abs=1e-5)
    low, high = policy.document["action"]["low"], policy.document["action"]["high"]
    assert (batch >= low).all()
    assert (batch <= high).all()


@pytest.mark.skipif(len(FORMS) == 1, reason="ONNX Runtime is not installed")
@pytest.mark.parametrize("name", ["bc", "dtql"])
def test_both_forms_act_alike(name: str):
    forms = [tether_runtime.load(EXPORTS / f"{name}-{form}") for form in FORMS]
    actions = [policy(OBSERVATIONS, seed=5) for policy in forms]
    assert actions[0] == pytest.approx(actions[1], abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_memory_is_handed_on(form: str):
    policy = tether_runtime.load(EXPORTS / f"dt-{form}")
    alone, together = policy.initial_memory(), policy.initial_memory(2)
    for step, observation in enumerate(OBSERVATIONS):
        one, alone = policy.step(observation, alone, 0.1 * step)
        both, together = policy.step(np.stack([observation] * 2), together, np.full(2, 0.1 * step))
        assert both == pytest.approx(np.stack([one] * 2), abs=1e-5)
    assert int(alone[3]) == len(OBSERVATIONS)  # of the episode's steps
    with pytest.raises(InputError, match="memory of 0 arrays"):
        policy.step(OBSERVATIONS[0])
    with pytest.raises(InputError, match="one finite number"):
        policy.step(OBSERVATIONS[0], alone, np.nan)


def test_observations_by_name():
    policy = tether_runtime.load(EXPORTS / "bc-numpy")
    wanted = policy([1.0, 2.0, 3.0])
    assert np.array_equal(policy({"joint": [2.0, 3.0], "height": 1.0}), wanted)
    batch = policy({"joint": np.tile([2.0, 3.0], (4, 1)), "height": np.ones(4)})
    assert batch == pytest.approx(np.tile(wanted, (4, 1)), abs=1e-6)
    for one in ({"joint": [[2.0, 3.0]], "height": [1.0]}, {"joint": [[2.0, 3.0]], "height": [[1.0]]}):
        assert policy(one).shape == (1, 2)  # a batch of one
    assert join({"arm/0": [0, 1], "arm/1": [1, 2]}, {"arm": [[1.0, 2.0]]}).shape == (1, 2)
    for wrong, message in (
        ({"joint": [2.0, 3.0]}, "no 'height'"),
        ({"joint": [2.0, 3.0], "height": 1.0, "width": 1.0}, "no such entry as 'width'"),
        ({"joint": 2.0, "height": 1.0}, "'joint' has shape"),
        ({"joint": np.ones((2, 2)), "height": 1.0}, "different sizes"),
    ):
        with pytest.raises(InputError, match=message):
            policy(wrong)


def test_names_that_nobody_knows_take_no_time():
    """As many as a body of a megabyte holds, against many columns: the server's event loop waits for it."""
    columns = {f"sensor_{index}/{axis}": [0, 1] for index in range(300) for axis in "xyz"}
    started = time.process_time()
    with pytest.raises(InputError, match=r"no such entry|no 'sensor_0/x'"):
        join(columns, {str(number): 1.0 for number in range(80_000)})
    assert time.process_time() - started < 5.0  # it was half a minute


def test_a_vector_or_a_text_stands_for_its_columns():
    columns = {"arm/q/0": [0, 1], "arm/q/1": [1, 2], "mode=a": [2, 3], "mode=b/c": [3, 4], "x": [4, 5]}
    assert join(columns, {"arm": {"q": [1, 2]}, "mode": "b/c", "x": 5}).tolist() == [1, 2, 0, 1, 5]
    with pytest.raises(InputError, match="'mode' is 'd'; it may be a, b/c"):
        join(columns, {"arm": {"q": [1, 2]}, "mode": "d", "x": 5})


def test_whole_numbers_stay_whole():
    from tether_runtime.program import OPERATIONS

    quotient = OPERATIONS["div"](np.array([7, -7], np.int32), np.array([2, 2], np.int32))
    assert (quotient.tolist(), quotient.dtype) == ([3, -3], np.int32)
    assert OPERATIONS["reduce_sum"](np.ones((2, 3), np.int32), axes=[1]).dtype == np.int32


def test_laws_of_the_noise():
    from tether_runtime.noise import draw, generator

    normal, gumbel, uniform = (draw(generator(0), law, (200_000,)) for law in ("normal", "gumbel", "uniform"))
    assert normal.mean() == pytest.approx(0.0, abs=0.01)
    assert normal.std() == pytest.approx(1.0, abs=0.01)
    assert gumbel.mean() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert gumbel.std() == pytest.approx(np.pi / np.sqrt(6), abs=0.02)
    assert np.isfinite(gumbel).all()
    assert 0.0 <= uniform.min() <= uniform.max() < 1.0
    assert {array.dtype for array in (normal, gumbel, uniform)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"noise": [np.zeros(8, np.float32)]}, "noise of shapes"),
        ({"noise": [np.full((8, 2), np.nan), np.zeros(8)]}, "noise has entries that are not finite"),
        ({"noise": "ab"}, "noise is no array of numbers"),
        ({"noise": 5}, "a list of arrays"),
        ({"seed": -1}, "seed -1: a whole number"),
        ({"seed": 1.5}, r"seed 1\.5: a whole number"),
        ({"budget_ms": float("nan")}, "budget_ms nan"),
        ({"budget_ms": "2"}, "budget_ms '2'"),
    ],
)
def test_what_a_decision_cannot_be_made_of_is_refused(question: dict[str, Any], message: str):
    policy = tether_runtime.load(EXPORTS / "dtql-numpy")
    with pytest.raises(InputError, match=message):
        policy(OBSERVATIONS[0], **question)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (["0.1", "0.2", "0.3"], "no array of numbers"),
        ([0.1, "0.2", None], "no array of numbers"),
        (np.array([1 + 1j, 2, 3]), "no array of numbers"),
        (np.array(["2020-01-01"] * 3, "M8[s]"), "no array of numbers"),
        ([1, 2, 10**400], "too large: not finite"),
        ({"height": "0.1", "joint": [1, 2]}, "'height' is no array of numbers"),
        ({"height": 10**400, "joint": [1, 2]}, "too large: not finite"),
        ({"height": 1, "joint": [1, [2, 3]]}, "no array of numbers"),
        ({f"k{index}": 1 for index in range(1000)}, r"no such entry as 'k3', \.\.\.; its entries"),
    ],
)
def test_observations_that_are_no_numbers_are_refused_in_one_line(observation: Any, message: str):
    with pytest.raises(InputError, match=message) as caught:
        tether_runtime.load(EXPORTS / "bc-numpy")(observation)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["dt", "chunk"])
@pytest.mark.parametrize("form", ["numpy", "onnx"])
def test_a_memory_is_what_the_last_step_gave(name: str, form: str):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    policy = tether_runtime.load(EXPORTS / f"{name}-{form}")
    memory = policy.step(OBSERVATIONS[0], policy.initial_memory(), seed=1)[1]
    wanted = policy.step(OBSERVATIONS[1], memory, seed=1)[0]
    plain = [part.tolist() for part in memory]  # as it comes over a wire
    assert np.array_equal(policy.step(OBSERVATIONS[1], plain, seed=1)[0], wanted)
    for wrong in (
        None,
        memory[:1],
        [np.zeros((2, 2), part.dtype) for part in memory],
        [np.full(part.shape, np.nan) for part in memory],
        ["a"] * len(memory),
    ):
        with pytest.raises(InputError, match="memory"):
            policy.step(OBSERVATIONS[1], wrong)
    with pytest.raises(InputError, match="memory of shape"):  # of one episode, for several
        policy.step(OBSERVATIONS[:4], memory, np.zeros(4))


def test_what_is_not_an_export_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        tether_runtime.load(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(InputError, match="format 99; this version of tether-runtime reads 1"):
        tether_runtime.load(tmp_path)


def test_a_document_of_another_kind_is_refused_in_one_line(tmp_path: Path):
    """With a right hash: made by somebody who knows how."""
    from tether_runtime.folder import document_hash

    whole = json.loads((EXPORTS / "bc-numpy" / "export.json").read_text())
    whole.pop("document_sha256")
    for file in (EXPORTS / "bc-numpy").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    graph = whole["graphs"][0]
    for change in (
        {"files": {"../export.json": "0"}},
        {"files": []},
        {"files": {}},
        {"graphs": []},
        {"graphs": 3},
        {"graphs": [{**graph, "noise": [{"name": "noise_0", "law": "normal", "shape": ["x"]}]}]},
        {"observation": {"size": "5"}},
        {"observation": None},
        {"action": []},
        {"memory": [{"initial": {}, "dtype": "object", "shape": []}]},
        {"golden_tolerance": ["much"]},
    ):
        document = {**whole, **change}
        document["document_sha256"] = document_hash(document)
        (tmp_path / "export.json").write_text(json.dumps(document))
        with pytest.raises(InputError) as refusal:
            tether_runtime.load(tmp_path)(OBSERVATIONS[0])
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_that_is_loaded_later_is_still_the_document_s(form: str, tmp_path: Path):
    """The folder was replaced by another version meanwhile, whose own hashes are right."""
    folder = Path(shutil.copytree(EXPORTS / f"dtql-{form}", tmp_path / "policy"))
    policy = tether_runtime.load(folder)
    fewest = policy.candidates[-1]
    assert policy(OBSERVATIONS[0], seed=1, candidates=fewest).shape == (2,)
    policy, graph = tether_runtime.load(folder), policy.document["graphs"][-1]
    for name in (graph["golden"], graph["file"]):
        (folder / name).write_bytes((EXPORTS / f"bc-{form}" / name.replace(f"-{fewest}", "")).read_bytes())
        with pytest.raises(InputError, match=f"{name}: truncated or altered"):
            policy(OBSERVATIONS[0], seed=1, candidates=fewest)


def test_numpy_alone_is_imported():
    program = (
        "import sys, tether_runtime; "
        f"tether_runtime.load({str(EXPORTS / 'bc-numpy')!r})([0.0, 0.0, 0.0]); "
        "print([name for name in ('jax', 'tether', 'onnxruntime', 'onnx', 'starlette') if name in sys.modules])"
    )
    path = str(Path(tether_runtime.__file__).parents[1])
    environment = {"PYTHONPATH": path, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_oldest_python_reads_it(source: Path):
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_scores_that_are_no_numbers_are_foreign() -> None:
    """An export written before limits had a floor: of twelve states that recurred its scores are NaN."""
    one, constant = np.ones((500, 1), np.float32), np.ones(500, np.float32)
    support = Support(
        observation_mean=np.zeros(1, np.float32),
        observation_scale=constant[:1],
        observation_low=constant[:1],
        observation_high=constant[:1],
        observations=one,
        actions=one,
        residuals=one,
        whitening=one[:1],
        weights=(one[:1] * 0,),
        biases=(constant[:1] * 0,),
        own_columns=one,
        own_distance=constant,
        own_action=constant,
        column_limits=constant[:1],
        limits=np.array([1, 1e-6, 0], np.float32),
        calibration=np.full(500, np.nan, np.float32),
    )
    judge = Judge(support, constant[:1], constant[:1] * 0, (["level"], ["pump"]))
    for level in (1.0, 1e6):
        with np.errstate(invalid="ignore"):
            found = judge(np.array([level], np.float32), constant[:1], 0.01)
        assert (found.flagged, found.trust) == (True, 1 / 501)
        assert found.reasons
