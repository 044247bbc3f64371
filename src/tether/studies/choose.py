"""`tether choose`: which of several policies to deploy, from logged data alone (docs/choosing-a-policy.md).

1. candidates     the lanes of runs and checkpoints, and policy folders
2. decisions      what each would do in the log's states, sampled once
3. values         fitted Q evaluation of all of them, and of the policy that wrote the log, whose value is known
4. gates          what disqualifies a candidate, whatever its value
5. one answer     a recommendation, or why there is none
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tether.data import Dataset, Downloads, load_dataset
from tether.data.schema import check_order
from tether.errors import InputError
from tether.machine.keywords import explain_function
from tether.ope.decisions import Decisions, decisions_of, evaluation_data
from tether.ope.estimators import Estimate
from tether.ope.evidence import Evidence, evidence_of
from tether.ope.fitted_q import FittedQ, Values, fit_values
from tether.ope.own_critic import find_critic, own_value
from tether.ope.propensities import by_propensities
from tether.ope.ranking import CONFIDENCE, Ranking, rank
from tether.ope.support import Support
from tether.ranges import check_seed
from tether.runs.arms import as_text
from tether.runs.candidates import Candidate, read_candidates
from tether.runs.document import read_config
from tether.runs.moved import find_source
from tether.runs.records import Display

__all__ = ["Choice", "Judged", "answer_line", "choice_table", "choose", "choose_among", "judge", "verdict"]

MOST_ROWS = 100_000
MOST_OFF = 0.1  # of a policy's decisions off the support: more, and it has left the log within ten steps
MOST_REGRET = 0.25  # of a choice by values, as a part of that of a blind choice
MOST_BEYOND = 0.1  # of what rewards can add up to: where costs are the only rewards, the best are worth the bound, 0
LEAST_BETTER = 0.1  # probability of being worth more than the log's own policy
LEAST_EPISODES = 10  # that weights must leave: with fewer the interval is that of a handful, far too narrow


@dataclasses.dataclass(frozen=True)
class Judged:
    """A candidate, and what the log says of it. Values are discounted returns from the log's first states."""

    name: str
    folder: Path
    algorithm: str
    lane: int | None
    seed: int | None
    update: int | None
    value: float | None = None  # None where it was not evaluated
    low: float | None = None  # of the 90 % interval
    high: float | None = None
    best: float = 0.0  # probability of being the best of those that pass the gates
    same_as: str | None = None  # an earlier row that decides alike everywhere, to the last bit
    disagreement: float | None = None  # standard deviation of the value over the ensemble
    off_support: float | None = None  # share of its decisions that are unlike what the log has seen done
    own_critic: float | None = None  # what the critic that it was trained with says of it
    importance: dict[str, float] | None = None  # value, low, high, effective_episodes, where the log has densities
    losses: dict[str, float] = dataclasses.field(default_factory=dict)  # on held-out episodes, as trained
    refused: tuple[str, ...] = ()  # by which gates


@dataclasses.dataclass(frozen=True)
class Choice:
    """The answer: `recommended` is the name of a row, or None where these candidates cannot be ranked."""

    rows: tuple[Judged, ...]  # best value first, those that a gate refused last
    recommended: str | None
    reason: str  # for either
    data: str
    discount: float
    behaviour: float | None  # what the log's own episodes were worth, discounted, as recorded
    behaviour_fitted: float | None  # the same as fitted values see it: how far they are to be trusted
    settings: dict[str, Any]  # of the evaluation

    @property
    def policy(self) -> Judged | None:
        """The row that is recommended."""
        return next((row for row in self.rows if row.name == self.recommended), None)

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        rows = [dataclasses.asdict(row) | {"folder": str(row.folder)} for row in self.rows]
        return dataclasses.asdict(self) | {"rows": rows}

    def __str__(self) -> str:
        return as_text(choice_table(self))


@explain_function
def choose(
    candidates: Sequence[str | Path],
    dataset: str | Path | Dataset | None = None,
    *,
    discount: float | None = None,
    updates: int = FittedQ.updates,
    members: int = FittedQ.members,
    rows: int = MOST_ROWS,
    seed: int = 0,
    continuous: bool = False,
    quiet: bool = False,
) -> Choice:
    """Which of several policies to deploy, from logged data alone (docs/choosing-a-policy.md).

    Args:
        candidates: run folders (each lane is a candidate, at the newest checkpoint), checkpoints in run folders, policy
            folders.
        dataset: a `Dataset` or a source, to judge them on; None: the data that the runs trained on.
        discount: of the values; None: the candidates' own.
        updates, members: of fitted Q evaluation: of each network, and how many there are.
        rows: at most so many of the log, drawn at random.
        seed: of networks and draws; the same one gives the same answer.
        continuous: `dataset`'s actions of whole numbers are levels; runs that were trained so say it themselves.
        quiet: no progress on stderr.

    Returns the table, and one recommendation or the reason why there is none.
    Raises InputError for bad input: a folder that is neither, runs on different data without `dataset`, data without
    rewards; CheckpointError where a checkpoint is damaged.
    """
    paths = [Path(path) for path in candidates]
    if not paths:
        raise InputError("choose: name at least one run, checkpoint or policy folder")
    if members < 2 or updates < 1 or rows < 1:
        raise InputError(f"members {members}, updates {updates}, rows {rows}: at least 2 members, 1 update, 1 row")
    check_seed(seed)
    data, found = _read(paths, dataset, continuous)
    discount = _discount(found) if discount is None else discount
    if not 0 <= discount < 1:
        raise InputError(f"discount {discount}: must be at least 0 and below 1")
    how = FittedQ(discount=discount, updates=updates, members=members)
    return choose_among(found, data, how, rows, seed=seed, quiet=quiet)


def choose_among(
    found: Sequence[Candidate],
    data: Dataset,
    how: FittedQ,
    rows: int = MOST_ROWS,
    *,
    seed: int = 0,
    quiet: bool = False,
) -> Choice:
    """`choose` of candidates that are read already. Raises: InputError where the data have no rewards."""
    with Display(quiet) as display:
        evidence = evidence_of(data, float(how.discount), rows, seed)
        decisions, refused = _decide(found, evidence, data, display, seed)
        values, scale = _evaluate(how, evidence, _different(decisions), display, seed) if decisions else (None, 1.0)
        weighed = {c.name: by_propensities(c.policy, data, evidence) for c in found if c.name in decisions and c.policy}
    settings = {"members": how.members, "updates": how.updates, "rows": len(evidence.episode), "seed": seed}
    return judge(found, evidence, decisions, refused, values, scale, data.source.location, settings, weighed)


def _read(
    paths: Sequence[Path], given: str | Path | Dataset | None, continuous: bool
) -> tuple[Dataset, list[Candidate]]:
    """The data to judge on, and all candidates. Data of several runs are read once."""
    known: dict[str, Dataset] = {}

    def trained_on(folder: Path) -> Dataset:
        nonlocal continuous
        record = read_config(folder)[1].data
        continuous |= record.continuous
        if record.sha256 not in known:
            if isinstance(given, Dataset) and record.digest_of(given) == record.sha256:
                known[record.sha256] = given
            elif record.in_memory:
                raise InputError(f"{folder}: trained on data in memory: give them as dataset=data")
            else:
                source = find_source(record.source, record.relative_source, record.sha256, folder)
                known[record.sha256] = _loaded(source, record.continuous)
        return known[record.sha256]

    found = [candidate for path in paths for candidate in read_candidates(path, trained_on)]
    found = _named_apart(found)
    if isinstance(given, Dataset):
        return given, found
    if given is not None:
        return _loaded(given, continuous), found
    if not known:
        raise InputError("choose: a policy folder does not say what it was trained on; name data with --data")
    if len(known) > 1:
        raise InputError(f"{len(known)} different data sets were trained on; name one to judge on with --data")
    return next(iter(known.values())), found


def _loaded(source: str | Path, continuous: bool) -> Dataset:
    return load_dataset(source, downloads=Downloads(quiet=True), continuous=continuous)


def _named_apart(found: list[Candidate]) -> list[Candidate]:
    """With the folder where names alone are the same."""
    names = [candidate.name for candidate in found]
    apart = [f"{c.folder}, lane {c.lane}" if names.count(c.name) > 1 else c.name for c in found]
    if len(set(apart)) < len(apart):
        twice = next(name for name in apart if apart.count(name) > 1)
        raise InputError(f"{twice}: named twice")
    return [dataclasses.replace(c, name=name) for c, name in zip(found, apart, strict=True)]


def _discount(found: Sequence[Candidate]) -> float:
    """That of most of them; 0.99 where none has one."""
    own = [candidate.discount for candidate in found if candidate.discount is not None and candidate.discount < 1]
    return max(sorted(set(own)), key=own.count) if own else FittedQ.discount


# --- values -------------------------------------------------------------------------------------------------


def _decide(
    found: Sequence[Candidate], evidence: Evidence, data: Dataset, display: Display, seed: int
) -> tuple[dict[str, Decisions], dict[str, str]]:
    """What each candidate would do, and why others cannot be asked."""
    decisions, refused = {}, {}
    for number, candidate in enumerate(found, 1):
        if candidate.policy is None:
            continue
        display.begin(f"decisions of {candidate.name} ({number}/{len(found)})", 0, len(evidence.episode), "rows")
        try:
            check_order(data.source.location, data.schema, candidate.schema)
            decisions[candidate.name] = decisions_of(
                candidate.policy,
                evidence,
                data,
                seed=seed,
                # `rows` are those that it is asked about: following states, too, or all, where it has a memory
                on_rows=lambda done, rows: display.advance(done * len(evidence.episode) // rows),
            )
        except InputError as error:
            refused[candidate.name] = str(error)
    # Networks begin differently at each place: an order that is the decisions' own gives one answer to one question.
    return dict(sorted(decisions.items(), key=lambda named: _digest(named[1]))), refused


def _digest(decisions: Decisions) -> bytes:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in decisions)).digest()


def _different(decisions: dict[str, Decisions]) -> dict[str, Decisions]:
    """Without those that decide as one before them does: networks would tell them apart by chance."""
    found: dict[str, Decisions] = {}
    for name, own in decisions.items():
        if not any(own.same(other) for other in found.values()):
            found[name] = own
    return found


def _evaluate(
    how: FittedQ, evidence: Evidence, decisions: dict[str, Decisions], display: Display, seed: int
) -> tuple[Values, float]:
    data, scale = evaluation_data(evidence, list(decisions.values()))
    display.begin("fitted Q evaluation", 0, how.updates, "updates of each network")
    return fit_values(how, data, seed, lambda done, updates: display.advance(done)), scale


# --- the answer ---------------------------------------------------------------------------------------------


def judge(
    found: Sequence[Candidate],
    evidence: Evidence,
    decisions: dict[str, Decisions],
    refused: dict[str, str],
    values: Values | None,
    scale: float,
    where: str,
    settings: dict[str, Any],
    weighed: Mapping[str, Estimate | None] = MappingProxyType({}),
) -> Choice:
    """From values to an answer; everything that takes long is done."""
    support, rows, names = Support(evidence), [], list(_different(decisions))
    places = {name: next(i for i, n in enumerate(names) if own.same(decisions[n])) for name, own in decisions.items()}
    behaviour = float(evidence.returns.mean()) if len(evidence.returns) else None
    fits_log = values is not None and values.first.shape[1] > len(names)
    ranking = None if values is None else rank(values, scale, known=behaviour if fits_log else None)
    for candidate in found:
        shared = ("name", "folder", "algorithm", "lane", "seed", "update", "losses")
        row = Judged(**{name: getattr(candidate, name) for name in shared})
        faults = [*candidate.faults, *([refused[candidate.name]] if candidate.name in refused else [])]
        if ranking is not None and candidate.name in places:
            row = _with_value(row, ranking, places[candidate.name])
            off = support.off(decisions[candidate.name].there)
            own = _own(candidate, evidence, decisions[candidate.name])
            same = names[places[row.name]] if names[places[row.name]] != row.name else None
            importance = _importance(weighed.get(row.name))
            row = dataclasses.replace(row, off_support=off, own_critic=own, same_as=same, importance=importance)
            faults += _gates(row, evidence)
        rows.append(dataclasses.replace(row, refused=tuple(faults)))
    fitted = float(ranking.value[-1]) if ranking is not None and fits_log else None
    passing = [row.name for row in rows if not row.refused]
    recommended, reason = None, "no candidate passes the gates"
    if ranking is not None and passing:
        among = np.zeros(len(ranking.value), bool)
        among[[places[name] for name in passing]] = True
        best = ranking.best(among)
        rows = [dataclasses.replace(r, best=float(best[places[r.name]])) if r.name in passing else r for r in rows]
        shown = [next((name for name in passing if places[name] == place), "") for place in range(len(names))]
        recommended, reason = verdict(ranking, among, shown, behaviour if fits_log else None)
    rows.sort(key=lambda row: (bool(row.refused), row.value is None, -(row.value or 0.0)))
    return Choice(tuple(rows), recommended, reason, where, evidence.discount, behaviour, fitted, settings)


def _with_value(row: Judged, ranking: Ranking, place: int) -> Judged:
    numbers = {"value": ranking.value, "low": ranking.low, "high": ranking.high, "disagreement": ranking.spread}
    return dataclasses.replace(row, **{name: float(array[place]) for name, array in numbers.items()})


def _importance(found: Estimate | None) -> dict[str, float] | None:
    if found is None:
        return None
    if found.effective_episodes < LEAST_EPISODES:
        return {"value": found.value, "effective_episodes": found.effective_episodes}
    low, high = (
        found.value + sign * NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * found.standard_error for sign in (-1, 1)
    )
    return {"value": found.value, "low": low, "high": high, "effective_episodes": found.effective_episodes}


def _own(candidate: Candidate, evidence: Evidence, decisions: Decisions) -> float | None:
    """What the critic of the candidate's training says, in the data's rewards."""
    critic = find_critic(candidate.state)
    if critic is None or candidate.normaliser is None or candidate.reward_factor is None:
        return None
    if candidate.policy is None or candidate.policy.has_memory:  # it judges decisions of other sizes
        return None
    return own_value(critic, candidate.normaliser, evidence, decisions) / candidate.reward_factor


def _gates(row: Judged, evidence: Evidence) -> list[str]:
    """Why a candidate is not to be deployed, whatever its value."""
    found, (low, high) = [], evidence.reachable
    assert row.value is not None
    assert row.off_support is not None
    slack = MOST_BEYOND * (high - low)
    if not low - slack <= row.value <= high + slack:
        found.append(f"its value {row.value:.3g} is not one that rewards can add up to ({low:.3g} to {high:.3g})")
    if row.off_support > MOST_OFF:
        found.append(f"{row.off_support:.1%} of its decisions are unlike any that were logged in such states")
    return found


def verdict(
    ranking: Ranking, among: np.ndarray, names: Sequence[str], behaviour: float | None
) -> tuple[str | None, str]:
    """(recommendation, reason).

    among: which pass the gates, bool (candidates,). behaviour: the true value of the last one, the log's own policy;
    None where the ranking has none.
    """
    passing = np.flatnonzero(among)
    if not np.isfinite(ranking.value[passing]).all():
        return None, "fitted Q evaluation diverged"
    leader = int(passing[np.argmax(ranking.value[passing])])
    draws = ranking.draws[:, passing]
    regret = float(np.mean(draws.max(axis=1) - ranking.draws[:, leader]))
    blind = float(np.mean(draws.max(axis=1) - draws.mean(axis=1)))
    words = f"expected to lose {regret:.3g} to the best of them, where a blind choice loses {blind:.3g}"
    if len(passing) > 1 and regret > MOST_REGRET * blind:
        off = 0.0 if behaviour is None else abs(float(ranking.value[-1]) - behaviour)
        missed = "" if behaviour is None else f"; what the log itself earned is missed by {off:.3g}"
        return None, f"the highest value is {words}: they differ by too little for how well they are known{missed}"
    words = words if len(passing) > 1 else "the only one to choose"
    if behaviour is None:
        return names[leader], words
    better = ranking.above(leader, -1)
    beside = f"worth more than the log's own policy with a probability of {better:.0%}"
    if better < LEAST_BETTER:
        return None, f"{names[leader]}, the best of them, is {beside}"
    return names[leader], f"{words}; {beside}"


# --- for people ---------------------------------------------------------------------------------------------


def choice_table(choice: Choice) -> Table:
    """A row for each candidate, and one for the log's own policy."""
    table = Table(
        title=f"value of {len(choice.rows)} candidates on {choice.data}", title_justify="left", box=SIMPLE_HEAD
    )
    table.caption = (
        f"value: discounted return (discount {choice.discount:g}) from the log's first states; off support: share of "
        "decisions unlike any that were logged in such states (of the log's own: 1 %)"
    )
    table.caption_justify = "left"
    table.add_column("candidate", no_wrap=False, overflow="fold")
    for column in ("value", "90 % interval", "best", "disagree", "off support", "own critic"):
        table.add_column(column, justify="right")
    weighed = any(row.importance is not None for row in choice.rows)
    if weighed:
        table.add_column("by propensities", overflow="fold")
    table.add_column("held-out losses", overflow="fold")
    table.add_column("gates", overflow="fold")
    for row in choice.rows:
        losses = ", ".join(f"{name} {value:.3g}" for name, value in row.losses.items()) or "-"
        interval = "-" if row.low is None or row.high is None else f"[{row.low:.4g}, {row.high:.4g}]"
        numbers = _text(row.value), interval, f"{row.best:.0%}", _text(row.disagreement, 2)
        style = "bold" if row.name == choice.recommended else ""
        off = "-" if row.off_support is None else f"{row.off_support:.0%}"
        gates = "; ".join(row.refused) or "pass" + ("" if row.same_as is None else f", decides as {row.same_as}")
        cells = [off, _text(row.own_critic), *([_weighed(row.importance)] if weighed else []), losses, gates]
        table.add_row(row.name, *numbers, *cells, style=style)
    if choice.behaviour is not None:
        table.add_row("the log itself, as recorded", _text(choice.behaviour))
    if choice.behaviour_fitted is not None:
        table.add_row("the log itself, by fitted values", _text(choice.behaviour_fitted))
    return table


def _weighed(importance: dict[str, float] | None) -> str:
    if importance is None:
        return "-"
    interval = f" [{importance['low']:.4g}, {importance['high']:.4g}]" if "low" in importance else ""
    return f"{importance['value']:.4g}{interval}, {importance['effective_episodes']:.1f} episodes"


def answer_line(recommended: str | None, reason: str) -> str:
    """The last line."""
    return f"cannot rank these: {reason}" if recommended is None else f"recommended: {recommended} ({reason})"


def _text(number: float | None, digits: int = 4) -> str:
    return "-" if number is None else f"{number:.{digits}g}"
