"""`tether data collect`: from an environment's name to data sets with their provenance.

DIR/LABEL-KIND.hdf5        D4RL's layout            DIR/minari/LABEL/KIND-v0/   Minari's
DIR/collect.json           environment, seed, settings, and of every file how it came about
DIR/policies/at-LEVEL/     policy folders, the first to reach a level            policies/last/
DIR/training/              evaluations.jsonl, checkpoints, the replay buffer     DIR/partial/   unfinished rollouts
"""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.algorithms import SAC
from tether.algorithms.registry import hyperparameters_of, parse_fields
from tether.collect.behaviours import Behaviour, controlled, random_actions, rollouts_of
from tether.collect.environments import Place, find_place
from tether.collect.layouts import write_d4rl, write_minari
from tether.collect.online import Online, Training, level_name
from tether.collect.published import D4RL_SETS, PROTOCOL, medium_return
from tether.collect.rows import Columns, Log, joined, summary
from tether.errors import InputError, unknown
from tether.machine.files import atomic_write_json, lasting
from tether.machine.locks import only_writer
from tether.machine.reading import parse_json, read_bytes
from tether.machine.signals import Interrupted, StopSignals
from tether.runs.config import commit, versions
from tether.runs.records import Display

__all__ = ["KINDS", "LAYOUTS", "CollectOptions", "Made", "collect"]

KINDS = ("random", "medium", "medium-replay", "full-replay", "medium-expert", "expert")
LAYOUTS = ("d4rl", "minari")
MEDIUM_SCORE = 40.0  # where D4RL has no medium set to go by
SAVE_ROWS = 20_000  # of rollouts
CONFIG_FORMAT = 1
STREAMS = {"random": 1, "medium": 2, "expert": 3, "policy": 4, "controller": 5}  # of the seed; training is 0


@dataclasses.dataclass(frozen=True)
class CollectOptions:
    """What to collect; see `tether data collect --help`."""

    environment: str
    out: Path
    kinds: tuple[str, ...] = ()
    policy: str | None = None
    controller: str | None = None
    name: str | None = None
    rows: int = 100_000
    steps: int = 1_000_000
    checkpoint_at: tuple[float, ...] = ()
    seed: int = 0
    layouts: tuple[str, ...] = ("d4rl",)
    noise: bool = True
    horizon: int | None = None
    batch_size: int = 256
    random_steps: int = 1_000
    updates_per_step: int = 1
    eval_every_steps: int = 2_000
    eval_episodes: int = 5
    set: dict[str, str] = dataclasses.field(default_factory=dict)


class Made(NamedTuple):
    """What a collection has led to."""

    files: list[tuple[Path, dict[str, Any]]]  # with their provenance
    failure: str  # why something is missing; empty if nothing is


def collect(options: CollectOptions, *, quiet: bool = False, command: str = "") -> Made:
    """Collect what `options` ask for; what is in its folder already is kept, what was begun goes on.

    Raises InputError for bad input, Busy where another process collects there, Interrupted after SIGINT, SIGTERM or
    SIGHUP (the same call goes on), CheckpointError or OSError where the disk fails.
    """
    options = _checked(options)
    place = find_place(options.environment, options.horizon)
    algorithm = SAC(**parse_fields(SAC, options.set))
    fields = ("seed", "batch_size", "random_steps", "updates_per_step", "eval_every_steps", "eval_episodes")
    judged = {"judged_with_noise": options.noise and _judges_with_noise(options.out)}
    training = Training(algorithm, **{name: getattr(options, name) for name in fields}, **judged)
    with Display(quiet) as display, StopSignals() as stop:
        if options.out.exists() and not (options.out / "collect.json").exists() and lasting(options.out):
            raise InputError(f"{options.out}: is not empty and no collection of tether's; name another with --out")
        with only_writer(options.out):
            collection = _Collection(options, place, training, command, display, stop)
            failure = collection.train()
            for kind in options.kinds if not failure else ():
                collection.make(kind)
    return Made(collection.files, failure)


def _judges_with_noise(folder: Path) -> bool:
    """What levels are judged by in a collection that is there: tether 0.1.0 judged them without noise."""
    try:
        return parse_json(read_bytes(folder / "collect.json"))["settings"].get("judged_with_noise", False)
    except OSError:
        return True
    except (ValueError, KeyError, TypeError, AttributeError):
        return True  # the comparison with it says what is wrong


def _checked(options: CollectOptions) -> CollectOptions:
    """The options with the kinds filled in. Raises InputError for what makes no sense."""
    for kind in options.kinds:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
    for layout in options.layouts:
        if layout not in LAYOUTS:
            raise unknown("layout", layout, LAYOUTS)
    for name in ("rows", "steps", "batch_size", "updates_per_step", "eval_every_steps", "eval_episodes"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    if options.seed < 0 or options.random_steps < 0:
        raise InputError(f"--seed {options.seed}, --random-steps {options.random_steps}: must not be negative")
    if options.policy and options.controller:
        raise InputError("--policy and --controller: one of them acts")
    if options.policy == "random":
        return dataclasses.replace(options, policy=None, kinds=tuple(dict.fromkeys([*options.kinds, "random"])))
    given = ("policy",) if options.policy else ("controller",) if options.controller else ()
    return dataclasses.replace(options, kinds=(*options.kinds, *given) or ("medium-replay",))


class _Collection:
    """One call of `collect`."""

    def __init__(
        self,
        options: CollectOptions,
        place: Place,
        training: Training,
        command: str,
        display: Display,
        stop: StopSignals,
    ):
        self.options, self.place, self.training = options, place, training
        self.display, self.stop = display, stop
        self.folder = options.out
        self.files: list[tuple[Path, dict[str, Any]]] = []
        self._rows: dict[str, tuple[Columns, dict[str, Any]]] = {}  # kind -> what was collected, and by whom
        self._online: Online | None = None
        self.medium, self.expert = self._levels()
        self.config = self._begin(command)

    def _levels(self) -> tuple[float | None, float | None]:
        """The levels of the medium and the expert policy; None: the policy after all steps."""
        levels = sorted(self.options.checkpoint_at)
        wanted = {"medium", "medium-replay", "medium-expert"} & set(self.options.kinds)
        if not levels and wanted:
            if not self.place.task.has_references:
                raise InputError(
                    f"{self.place.task.name} has no reference returns: say at which return a policy is medium, such as "
                    f"--checkpoint-at=-400 (needed for {', '.join(sorted(wanted))}; full-replay needs none)"
                )
            levels = [self._medium_level()]
        return (levels[0] if levels else None), (levels[-1] if len(levels) > 1 else None)

    def _medium_level(self) -> float:
        """The score of D4RL's medium set, about a third of the expert's or more; to a digit, as it names a folder."""
        published = medium_return(self.place.task.name)
        return MEDIUM_SCORE if published is None else round(float(self.place.task.score(published)), 1)

    def _begin(self, command: str) -> dict[str, Any]:
        """collect.json: made, or compared with what is asked for now."""
        task = self.place.task
        environment = {"id": task.gymnasium_id, "options": dict(task.options), "horizon": task.horizon}
        settings = {**dataclasses.asdict(self.training), "algorithm": hyperparameters_of(self.training.algorithm)}
        config = json.loads(
            json.dumps({"format_version": CONFIG_FORMAT, "environment": environment, "settings": settings})
        )
        path = self.folder / "collect.json"
        if path.exists():
            self._compare(path, config)
            found = parse_json(read_bytes(path))
            return found | {"commands": [*found["commands"], command]}
        config |= {"commands": [command], "versions": versions(), "commit": commit(), "files": {}}
        atomic_write_json(path, config)
        return config

    def _defaults(self) -> dict[str, Any]:
        return json.loads(json.dumps(hyperparameters_of(type(self.training.algorithm)())))

    def _compare(self, path: Path, config: dict[str, Any]) -> None:
        try:
            found = parse_json(read_bytes(path))
            pairs = [("environment", found["environment"], config["environment"])]
            # Hyper-parameters that were not there when it was begun have their defaults.
            before = {
                "judged_with_noise": False,
                **found["settings"],
                "algorithm": self._defaults() | found["settings"]["algorithm"],
            }
            pairs += [(name, before.get(name), value) for name, value in config["settings"].items()]
            _ = found["files"], found["commands"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: truncated or altered: {type(error).__name__} {error}") from None
        for name, old, new in pairs:
            if old != new:
                raise InputError(f"{self.folder}: was begun with {name} {old}, not {new}; name another with --out")

    # --- training ---

    def train(self) -> str:
        """Train as far as the kinds need it -> why that did not succeed, or nothing."""
        kinds = set(self.options.kinds)
        levels = sorted(self.options.checkpoint_at)
        if not levels and {"medium", "medium-replay", "medium-expert"} & kinds:
            levels = [self.medium or self._medium_level()]
        to_the_end = "full-replay" in kinds or (bool({"expert", "medium-expert"} & kinds) and self.expert is None)
        if not (levels or to_the_end) or not any(self._missing_layouts(kind) for kind in kinds & set(KINDS)):
            return ""
        folder = self.folder / "training"
        self._online = Online(folder, self.place, self.training, self.options.steps, self.display, self.stop)
        self._online.run(levels, to_the_end)
        if self._online.diverged:
            return f"training diverged after {self._online.log.rows:,} steps: its returns are not finite"
        last = self._online.evaluations.read()[-1:]
        if to_the_end:
            self._online.keep_policy("last", last[0] if last else {})
        missing = [level for level in levels if level_name(level) not in self._online.levels]
        if missing:
            best = max((row.get("score", row["return"]) for row in self._online.evaluations.read()), default=np.nan)
            return (
                f"after {self._online.log.rows:,} steps the best evaluation is {best:.1f}; level {missing[0]:g} "
                "was not reached, so no data were written; give more --steps (training goes on), or a lower "
                "--checkpoint-at in another folder"
            )
        return ""

    # --- files ---

    def make(self, kind: str) -> None:
        """The files of one kind; those that are there stay."""
        path = self._file(kind)
        if missing := self._missing_layouts(kind):
            columns, record = self._collected(kind)
            provenance = self._provenance(kind, columns, record)
            self.config["files"][path.stem] = provenance
            if "d4rl" in missing:
                write_d4rl(path, columns, self.place, provenance)
            if "minari" in missing:
                write_minari(self.folder / "minari", self._minari_id(kind), columns, self.place, provenance)
            atomic_write_json(self.folder / "collect.json", self.config)
            Log(self._partial(kind, record)).discard()
            with contextlib.suppress(OSError):
                (self.folder / "partial").rmdir()
        provenance = self.config["files"].get(path.stem, {})
        self.files += [(self._layout_path(kind, layout), provenance) for layout in self.options.layouts]

    def _missing_layouts(self, kind: str) -> list[str]:
        return [layout for layout in self.options.layouts if not self._layout_path(kind, layout).exists()]

    def _layout_path(self, kind: str, layout: str) -> Path:
        return self._file(kind) if layout == "d4rl" else self.folder / "minari" / self._minari_id(kind)

    def _minari_id(self, kind: str) -> str:
        return f"{self.place.label}/{self._suffix(kind)}-v0"

    def _suffix(self, kind: str) -> str:
        named = kind in ("policy", "controller") and self.options.name
        if kind == "controller" and not named:
            return str(self.options.controller).rpartition(":")[2]
        return self.options.name if named and self.options.name else kind

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.place.label}-{self._suffix(kind)}.hdf5"

    def _partial(self, kind: str, record: dict[str, Any]) -> Path:
        """Where unfinished rollouts wait; another behaviour or seed has another place."""
        text = json.dumps([record, self.options.seed], sort_keys=True)
        return self.folder / "partial" / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def _collected(self, kind: str) -> tuple[Columns, dict[str, Any]]:
        """The rows of a kind, and whose they are."""
        if kind not in self._rows:
            self._rows[kind] = self._collect(kind)
        return self._rows[kind]

    def _collect(self, kind: str) -> tuple[Columns, dict[str, Any]]:
        if kind == "medium-expert":
            parts = [self._collected(part) for part in ("medium", "expert")]
            record = {"behaviour": "medium, then expert", "parts": [record for _, record in parts]}
            return joined([columns for columns, _ in parts]), record
        if kind in ("medium-replay", "full-replay"):
            assert self._online is not None
            rows = self.options.steps
            if kind == "medium-replay":
                assert self.medium is not None
                rows = self._online.levels[level_name(self.medium)]["step"]
            record = {"behaviour": "sac while it learns", "training": self.config["settings"]}
            return self._online.log.columns(rows), record
        behaviour = self._behaviour(kind)
        return self._rollouts(kind, behaviour), behaviour.record

    def _behaviour(self, kind: str) -> Behaviour:
        options, levels = self.options, {"medium": self.medium, "expert": self.expert}
        if kind == "random":
            return random_actions(self.place)
        if kind == "controller":
            return controlled(str(options.controller), self.place)
        if kind == "policy":
            return rollouts_of(Path(str(options.policy)), self.place, options.noise)
        level = levels[kind]
        folder = self.folder / "policies" / ("last" if level is None else level_name(level))
        return rollouts_of(folder, self.place, options.noise)

    def _rollouts(self, kind: str, behaviour: Behaviour) -> Columns:
        """Blocks of a behaviour until there are enough rows."""
        rows, log = self.options.rows, Log(self._partial(kind, behaviour.record))
        log.restore()
        saved = log.rows
        self.display.begin(self._suffix(kind), log.rows, rows, "steps")
        with contextlib.closing(self.place.open()) as environment:
            while log.rows < rows:
                random = np.random.default_rng([self.options.seed, STREAMS[kind], log.blocks])
                log.append(behaviour.play(environment, random))
                self.display.advance(min(log.rows, rows))
                if log.rows - saved >= SAVE_ROWS or self.stop.number is not None:
                    log.save()
                    saved = log.rows
                if self.stop.number is not None:
                    raise Interrupted(self.stop.number, self.folder, "the same command")
        log.save()
        return log.columns(rows)

    def _provenance(self, kind: str, columns: Columns, record: dict[str, Any]) -> dict[str, Any]:
        """How a file came about, JSON-able."""
        found = {"format_version": CONFIG_FORMAT, "kind": self._suffix(kind), **record}
        found |= {"environment": self.config["environment"], "seed": self.options.seed}
        found |= {"command": self.config["commands"][-1], "versions": versions(), "commit": commit()}
        found |= {"rows": len(columns["rewards"]), **summary(columns)}
        if self.place.task.has_references and not self.place.task.recorded_returns:
            found["mean_score"] = float(self.place.task.score(found["return_mean"]))
        published = D4RL_SETS.get((self.place.task.name, kind))
        if published is not None:
            found["set"] = PROTOCOL
            found["d4rl"] = published._asdict() | {"length_mean": published.length_mean}
        return json.loads(json.dumps(found, default=str))
