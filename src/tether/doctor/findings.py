"""What the doctor can find: one row for each code, with why it matters and what to do. docs/doctor.md shows them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["CODES", "GRADES", "KEPT_ROWS", "PURPOSES", "SHOWN_ROWS", "Code", "Finding", "Grade", "Place", "Purpose"]

Purpose = Literal["imitation", "offline-rl"]
PURPOSES: tuple[Purpose, ...] = ("imitation", "offline-rl")
"""What the data shall teach: what was done, or what would be better."""

Grade = Literal["error", "warning", "note"]
GRADES: tuple[Grade, ...] = ("error", "warning", "note")
"""error: training on it goes wrong or is refused; warning: some algorithms or some numbers (returns, scores)
come out wrong; note: worth knowing, nothing to repair."""

SHOWN_ROWS, KEPT_ROWS = 5, 1000
"""How many row numbers a finding shows, and how many it keeps for the JSON report."""


@dataclass(frozen=True)
class Code:
    """One kind of finding.

    Attributes:
        title: what is wrong, in a few words.
        why: why it matters.
        fix: what to do about it.
        automatic: `--fix` can do it (a finding may still say that it cannot in its case).
    """

    title: str
    why: str
    fix: str
    automatic: bool = False


@dataclass(frozen=True)
class Place:
    """Where: how many rows, the first `KEPT_ROWS` of them (numbers in the source, from 0), and which columns."""

    count: int = 0
    rows: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()

    @staticmethod
    def of(rows: Iterable[int] | np.ndarray = (), columns: Iterable[str] = ()) -> "Place":
        """The first `KEPT_ROWS` of `rows` and their number."""
        found = rows if isinstance(rows, np.ndarray) else list(rows)
        return Place(len(found), tuple(int(row) for row in found[:KEPT_ROWS]), tuple(columns))

    def __str__(self) -> str:
        parts = [", ".join(self.columns)] if self.columns else []
        if self.count:
            rest = ", ..." if self.count > SHOWN_ROWS else ""
            plural = "row" if self.count == 1 else f"{self.count:,} rows:"
            parts.append(f"{plural} {', '.join(map(str, self.rows[:SHOWN_ROWS]))}{rest}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Finding:
    """One thing found: its code, how bad, what exactly, where, the figures behind it.

    `fixable`: `--fix` repairs it here.
    """

    code: str
    grade: Grade
    what: str
    place: Place = Place()
    fixable: bool = False
    figures: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise KeyError(f"finding code {self.code!r} is not in CODES")
        if self.fixable and not CODES[self.code].automatic:
            raise ValueError(f"finding code {self.code!r} has no automatic fix")

    def record(self) -> dict[str, Any]:
        """The finding for JSON: everything that a reader needs without this program."""
        code = CODES[self.code]
        return {
            "code": self.code,
            "grade": self.grade,
            "title": code.title,
            "what": self.what,
            "where": {"count": self.place.count, "rows": self.place.rows, "columns": self.place.columns},
            "why": code.why,
            "fix": code.fix,
            "fixable": self.fixable,
            "figures": dict(self.figures or {}),
        }


CODES: Mapping[str, Code] = {
    # --- the file -------------------------------------------------------------------------------------------
    "empty": Code("no rows", "There is nothing to learn from.", "Check how the file was written."),
    "missing-column": Code(
        "a column is missing",
        "Training needs observations, actions, rewards and terminals for every step.",
        "Add the column, or convert the file with `tether data import`.",
    ),
    "not-numbers": Code(
        "a column does not hold real numbers",
        "Nothing can be computed from text, objects or complex numbers.",
        "Store the column as float32 (flags as bool).",
    ),
    "unequal-rows": Code(
        "columns of unequal length",
        "Rows of different columns cannot be paired; which end lacks a row is not known.",
        "Write one row per step in every column. One extra observation per episode means Minari's layout.",
    ),
    "wrong-rank": Code(
        "a column has the wrong number of axes",
        "Observations and actions need (rows, size), the other columns (rows,).",
        "Reshape the column: --fix turns (N,) into (N, 1) for observations and actions. Other ranks need a choice.",
        automatic=True,
    ),
    "column-vector": Code(
        "a flat column is stored as (N, 1)",
        "tether flattens it. In other code (N, 1) minus (N,) broadcasts to (N, N) without an error.",
        "Flatten it.",
        automatic=True,
    ),
    "float64": Code(
        "stored in double precision",
        "tether trains in float32; the file is twice as big as it needs to be.",
        "Store float32.",
        automatic=True,
    ),
    "not-finite": Code(
        "NaN or infinity",
        "One such row turns every parameter into NaN within an update.",
        "Find out why the recorder wrote them. --fix drops the rows and cuts the episode there with a time-out; "
        "instead of rows it drops the column of next observations where the next rows tell them. Where most rows would "
        "go, leave out or fill the columns that lack values.",
        automatic=True,
    ),
    "bad-flag": Code(
        "a flag is neither 0 nor 1",
        "Whether the episode ended there is anybody's guess.",
        "Store flags as bool.",
    ),
    "dictionary-observations": Code(
        "observations are a dictionary",
        "Networks here take one vector. The doctor joins the entries in the order of their names.",
        "Choose the entries that the policy shall see and join them.",
    ),
    "missing-last-observation": Code(
        "episodes with as many observations as actions",
        "Minari's layout has one observation more; the last step of these episodes has no next observation "
        "(a known fault of antmaze-umaze-v0 and the pointmaze sets).",
        "Use a newer version of the data set. --fix drops the last step of these episodes.",
        automatic=True,
    ),
    "ogbench-layout": Code(
        "OGBench's layout",
        "`terminals` marks the last observation of a trajectory, not success, and rewards are computed for a task.",
        "Load it as `ogbench:...-singletask-...`; the doctor treats these flags as time-outs.",
    ),
    "left-out": Code(
        "not everything was read, or not as it stands",
        "What is named here plays no part in training, or was taken for what it says.",
        "Nothing, if it is what you expect.",
    ),
    "no-rewards": Code(
        "nobody recorded rewards",
        "Demonstrations teach what was done: bc and diffusion-bc imitate, methods that learn from rewards refuse them.",
        "Nothing for imitation (`--purpose imitation`). Else store rewards, or compute them with `tether data import`.",
    ),
    "no-transition-left": Code(
        "no transition is left to train on",
        "A row with a time-out, and the last row, count only where their next observation is stored.",
        "Where each row is a decision of its own, mark rows as terminal (`tether data import --terminal every-row`); "
        "where the flags are wrong, mark the last rows of episodes only.",
    ),
    "few-transitions-left": Code(
        "most rows are lost",
        "Rows with a time-out count only where their next observation is stored; here that is most of the data.",
        "Store next observations, or mark as time-outs only the rows after which the recording was cut.",
    ),
    "counts-disagree": Code(
        "not as many rows or episodes as its description says",
        "The file is cut short, was filtered, or is another version than its name says; results are not comparable.",
        "Download it again and compare its SHA-256.",
    ),
    "wrong-size": Code(
        "sizes differ from the task's",
        "The policy could not act in the environment that the name stands for.",
        "Rename the file, or give `--environment` when training.",
    ),
    # --- values ---------------------------------------------------------------------------------------------
    "actions-out-of-range": Code(
        "actions outside [-1, 1]",
        "Policies here act in [-1, 1]; environments clip what is outside.",
        "State the true limits: `tether data import --action-low LOW --action-high HIGH` scales each action from them "
        "to [-1, 1], and the policy back. --fix does so where the limits are stored, and clips where few actions are "
        "outside by little, as the environment would.",
        automatic=True,
    ),
    "saturated-actions": Code(
        "many actions at the limits",
        "Gaussian behaviour models put no mass there, and a limit may hide actions that were clipped when recorded.",
        "Prefer a diffusion behaviour model; if actions were clipped by the recorder, record them unclipped.",
    ),
    "unused-action-range": Code(
        "actions use a small part of [-1, 1]",
        "If their true limits are narrower than [-1, 1], exploration noise and penalties are scaled wrongly.",
        "Rescale them if the actuator's limits are those of the data.",
    ),
    "discrete-actions": Code(
        "actions are whole numbers",
        "The algorithms here learn continuous actions.",
        "Name a continuous column. Where whole numbers really are levels, say so: `--continuous`, in Python "
        "`continuous=True`.",
    ),
    "action-in-observation": Code(
        "an observation column tells the action",
        "The policy only has to read it off, and learns nothing else. When it acts, the column holds something else: "
        "the last command, or nothing. So do columns that hold mixtures of actions, or the action with a little noise.",
        "Leave the column out, or shift it by a row if it is meant to be the last action. If a controller acts on this "
        "column alone, nothing is wrong: expect imitation.",
    ),
    "constant-column": Code(
        "a column never changes",
        "A constant observation carries nothing and divides by almost zero when normalised by its spread; a constant "
        "action cannot be learnt.",
        "Leave it if the policy will meet the same constant (goals in kitchen), else remove it.",
    ),
    "duplicated-columns": Code(
        "two columns are equal",
        "Often a mistake in joining the columns; the second one carries nothing.",
        "Check how the columns were joined.",
    ),
    "observation-scale": Code(
        "observations differ much in scale",
        "The largest columns drown the small ones in a network.",
        "Train with `--observation-transform standardise`.",
    ),
    "outliers": Code(
        "isolated extreme values",
        "Placeholders (-999, 1e10) and sensor spikes rule means, spreads and gradients.",
        "Find out what the values stand for; remove these rows or mend the values.",
    ),
    "error-code": Code(
        "one value in the place of what was not measured",
        "Drivers write -9999, 65535 or the like where they have nothing to say. Taken for a measurement it rules means "
        "and spreads: standardised, everything else is almost 0.",
        "Leave these entries empty in the file and import it with `--missing drop` or `--missing hold`.",
    ),
    "frozen-column": Code(
        "a sensor stands still",
        "A column that changes with nearly every row repeats one value while the others go on: the sensor, or its "
        "driver, had stopped. The policy learns to act without it.",
        "Leave out these rows (`tether data import --missing drop`, with the entries empty), or the column.",
    ),
    "already-standardised": Code(
        "values have mean 0 and spread 1 exactly",
        "Somebody normalised them with statistics that are not in the file: the policy cannot be deployed on raw "
        "observations, returns cannot be compared with published ones.",
        "Use the raw data.",
    ),
    "deterministic-behaviour": Code(
        "actions follow from observations",
        "Where each state has one action, there is nothing to compare it with: expect imitation, not improvement.",
        "Collect some data with noise, or use behaviour cloning.",
    ),
    "few-states": Code(
        "few distinct observations",
        "The data cover a small part of the task.",
        "Collect more.",
    ),
    # --- episodes -------------------------------------------------------------------------------------------
    "no-timeouts-column": Code(
        "`timeouts` is not stored",
        "Ends by time are not marked: they are set at the task's horizon if it is known, else none is assumed "
        "(right for kitchen, wrong where episodes also time out).",
        "Store `timeouts`.",
    ),
    "no-episode-ends": Code(
        "no row ends an episode",
        "Episodes are glued together: each join is a false transition.",
        "Store `timeouts`. --fix sets them at the task's horizon if it is known and divides the rows.",
        automatic=True,
    ),
    "unfinished-last-episode": Code(
        "the last episode has no end",
        "Returns leave it out; nothing else is affected.",
        "Nothing.",
    ),
    "terminal-and-timeout": Code(
        "rows that are both terminal and time-out",
        "D4RL's loader drops such rows, and with them successes on the last step; tether keeps them as terminal.",
        "Decide which it is. --fix keeps the terminal.",
        automatic=True,
    ),
    "terminals-at-horizon": Code(
        "terminals that are time-outs",
        "They all come at the same step and in states like any other: the clock ended these episodes. Values are then "
        "cut to zero in ordinary states.",
        "Move the flags to `timeouts`. Without exact next observations these rows are then not trained on: --fix does "
        "it where they are stored, or where the rows' rewards are like those before. Leave true ends as they are.",
        automatic=True,
    ),
    "teleports": Code(
        "jumps inside an episode",
        "The next row is no successor: an end flag is missing or misplaced (AntMaze v0), or rows were lost. Values "
        "leak between places that are far apart.",
        "Mark these rows as time-outs; --fix does.",
        automatic=True,
    ),
    "next-observation-mismatch": Code(
        "the stored next observation is not the next row's",
        "Inside an episode they are the same observation. Rows were lost, re-ordered or cut without a flag, or one of "
        "the columns was changed.",
        "Where few rows differ they are unmarked cuts: --fix marks them as time-outs. Where most do, "
        "restore the order of the rows.",
        automatic=True,
    ),
    "next-equals-current": Code(
        "the stored next observation is the row's own",
        "Nothing can be learnt about what actions do.",
        "The recorder stored the same buffer twice. --fix drops the column: the next row tells.",
        automatic=True,
    ),
    "next-observation-from-reset": Code(
        "after an end, the next observation is of the next episode",
        "Vector environments that reset themselves return it so. Bootstrapping from it at a time-out is wrong.",
        "--fix drops the column; inside an episode the next row tells.",
        automatic=True,
    ),
    "rows-look-shuffled": Code(
        "neighbouring rows have nothing to do with each other",
        "A row's next observation is taken from the next row. Here it cannot be predicted at all.",
        "Restore the order of recording. Nothing to do if observations are drawn afresh each step (contextual bandit).",
    ),
    "interleaved-rows": Code(
        "rows of several environments are interleaved",
        "Row i+1 belongs to another environment than row i; each pair is a false transition.",
        "Store one environment after the other; --fix does, with a time-out at the end of each.",
        automatic=True,
    ),
    "block-cuts": Code(
        "time-outs at the ends of collection blocks",
        "Replay buffers are cut every so many rows. Such episodes are neither done nor at the horizon: their "
        "returns are too low (Decision Transformer, %BC, returns shown here).",
        "Nothing for TD learning, which drops these rows. Leave them out where returns count.",
    ),
    "early-timeouts": Code(
        "time-outs before the horizon",
        "Cut episodes have returns that are too low.",
        "Leave them out where returns count.",
    ),
    "stream-timeouts": Code(
        "the recording goes on after time-outs",
        "One continuous stream whose time-outs mark sub-goals (maze2d): episode returns and lengths mean nothing.",
        "Nothing for TD learning. Cut the stream as you like for sequence models.",
    ),
    "split-episodes": Code(
        "episodes in several pieces",
        "The row after some time-outs continues the same motion: returns and lengths are those of pieces, and a "
        "transition is lost at each cut.",
        "Clear these time-outs if the environment's own horizon allows it.",
    ),
    "terminal-clusters": Code(
        "terminals in a row",
        "The recording goes on after success (AntMaze): splitting there makes one-step episodes, returns count "
        "the same success again and again.",
        "Nothing for TD learning. For returns cut at the first terminal of each attempt.",
    ),
    "continues-after-terminal": Code(
        "the recording goes on after terminals",
        "The state after the flag continues the same motion: the task did not end there.",
        "Check what the flag means (success, or end of the episode).",
    ),
    "longer-than-horizon": Code(
        "episodes longer than the task's horizon",
        "Their returns cannot be reached in evaluation; or an end flag is missing.",
        "Compare returns over the first `horizon` steps only.",
    ),
    "one-step-episodes": Code(
        "episodes of one step among longer ones",
        "Two flags in neighbouring rows: usually the flag was stored one row late or twice.",
        "Look at the rows.",
    ),
    "episode-ids-disagree": Code(
        "episode numbers and end flags disagree",
        "Either the flags or the numbers are wrong; both are used to cut episodes.",
        "Compute one from the other.",
    ),
    "duplicated-episodes": Code(
        "copies of whole episodes",
        "Copies weigh more than their worth and leak from training into validation (D4RL's cloned sets repeat the "
        "demonstrations).",
        "--fix keeps the first of each; not if results shall be compared with the published set.",
        automatic=True,
    ),
    "duplicated-rows": Code(
        "copies of rows",
        "Copied rows weigh more than their worth.",
        "Look at how the data was merged.",
    ),
    "repeated-rows": Code(
        "rows repeated by their neighbour",
        "The recorder wrote a step twice, or the sensor froze: time seems to stand still.",
        "Record each step once.",
    ),
    "uneven-time-steps": Code(
        "time between rows varies",
        "A discount and a dynamics per step mean different things at different rates.",
        "Resample to one rate.",
    ),
    "time-gaps": Code(
        "the clock jumps",
        "Rows were lost: across a gap inside an episode the next row is no successor after one step, and what is "
        "learnt from it is wrong. A gap at the end of an episode only tells that one recording lies in pieces.",
        "Where gaps are inside episodes, import the log with `--time` and `--max-gap`, which ends the episode there.",
    ),
    "time-not-increasing": Code(
        "time stands still or runs backwards inside an episode",
        "Backwards: rows are out of order or an end flag is missing. Standing still: the clock is coarser than the "
        "rows, which training does not read.",
        "Sort by time; cut the episode where the clock restarts. A coarse clock needs no repair.",
    ),
    # --- rewards and alignment ------------------------------------------------------------------------------
    "constant-reward": Code(
        "all rewards are equal",
        "There is nothing to prefer (in AntMaze a known fault of loaders that dropped the goal rows).",
        "Compute the rewards again. Harmless only where the lengths of episodes tell good from bad.",
    ),
    "reward-scale": Code(
        "rewards of a size that no critic learns",
        "A critic starts near 0 and moves by its learning rate: values above some 10,000, or differences below its own "
        "noise, are not learnt, and its squared errors drown everything else.",
        "Train with the reward transform that is named; returns are reported in the environment's own rewards.",
    ),
    "sparse-reward": Code(
        "rewards are rare",
        "Most steps look alike to the critic.",
        "`--reward-transform iql_antmaze` (r - 1) is the custom for 0/1 rewards.",
    ),
    "few-rewarded-rows": Code(
        "hardly any reward",
        "A handful of rows decides everything that is learnt.",
        "Check the labels; collect more successes.",
    ),
    "reward-shifted": Code(
        "rewards are off by one step",
        "The reward of a row fits the transition before or after it better than its own: credit goes to the wrong "
        "action.",
        "Shift the column by one row inside each episode (`rewards[1:]` or `rewards[:-1]`), at the recorder.",
    ),
    "reward-of-current-state": Code(
        "the reward is that of the observation, not of the next one",
        "The environment usually pays for where the action leads (D4RL's maze2d files differ from it in this).",
        "Shift the rewards by one row if they shall match the environment's.",
    ),
    "reward-away-from-goal": Code(
        "rewards far from the goal",
        "These rows say that the goal is where it is not (known in antmaze-medium-play-v2).",
        "Label the rewards again from the positions.",
    ),
    "not-as-published": Code(
        "breaks a rule that the published set keeps",
        "The name promises a known data set, the content differs.",
        "Compare with the original file.",
    ),
    "repaid-rewards": Code(
        "subtasks are paid again each step",
        "The reward is the number of finished subtasks (kitchen), the environment pays each once: returns in the data "
        "and in evaluation cannot be compared.",
        "For returns use the maximum of the reward in an episode.",
    ),
    "returns-out-of-scale": Code(
        "returns far outside the task's reference scores",
        "The rewards were scaled or transformed, or belong to another task.",
        "Use the environment's raw rewards.",
    ),
    "actions-shifted": Code(
        "actions are off by one step",
        "What moves the state from this row to the next is stored in a neighbouring row, as when rows hold `the action "
        "that led here`.",
        "Shift the column by one row inside each episode.",
    ),
}
"""Code -> what it means. The order is that of the report within a grade."""
