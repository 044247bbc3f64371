"""What a run that goes on in its environment takes over from another one, and what it may not change of it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax

from tether.algorithms.registry import parse_fields
from tether.data import Dataset, view_of
from tether.environments.ids import import_environment
from tether.errors import InputError
from tether.ranges import COUNTED, between, check_ranges
from tether.runs.checkpoint import find_latest
from tether.runs.config import check_batch_size, check_counts, fresh_folder, restored_plan, with_device_here
from tether.runs.plan import Finetuning, Parent, Plan
from tether.types import Spec, Transition

__all__ = ["FinetuneRequest", "find_parent", "plan_finetuning"]

LENGTHS = ("train_updates", "pretrain_updates")
EVALUATIONS = 10  # of a run, where nobody says how many


@dataclasses.dataclass(frozen=True)
class FinetuneRequest:
    """What is asked of fine-tuning, as `tether.finetune` says it; None: as in the run that it goes on from."""

    env_steps: Annotated[int, between(0, COUNTED)]
    online_fraction: float = 0.5
    warmup_env_steps: int = 0
    updates_per_step: int = 1
    exploration_noise: float | None = None
    replay_capacity: int | None = None
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int | None = None
    eval_every_env_steps: Annotated[int, between(1, COUNTED)] | None = None
    eval_episodes: int | None = None
    environment: str | None = None
    horizon: int | None = None

    def __post_init__(self) -> None:
        """Raises InputError for numbers that make no sense."""
        check_ranges(self)

    def finetuning(self, parent: Parent) -> Finetuning:
        """What of it a run keeps. Raises InputError."""
        own = {field.name for field in dataclasses.fields(Finetuning)} - {"parent"}
        return Finetuning(parent, **{name: getattr(self, name) for name in own})


def find_parent(run: Path, plan: Plan) -> Parent:
    """The newest checkpoint of the run in `run`, whose plan is `plan`.

    Raises: InputError where there is nothing to go on from: no checkpoint, only an earlier phase, diverged lanes;
    DamagedCheckpoint.
    """
    found = find_latest(run / "checkpoints")
    if found is None:
        raise InputError(f"{run}: holds no checkpoint yet; train on with: tether resume {run}")
    (phase, update), phases = found.notes["position"], plan.phases()
    if phase < len(phases) - 1:
        name = phases[phase][0]
        raise InputError(f"{run}: is in its phase {name}, at update {update:,}; train on with: tether resume {run}")
    if len(found.notes["frozen"]) == len(plan.lanes):
        raise InputError(f"{run}: every lane diverged; there is no policy to go on from")
    rounds = 0 if plan.finetuning is None else plan.finetuning.parent.rounds + 1
    return Parent(str(run.resolve()), found.path.name, update, found.sha256, rounds)


def plan_finetuning(
    run: Path,
    request: FinetuneRequest,
    out: str | Path | None,
    quiet: bool,
    dataset: str | Path | Dataset | None = None,
    algorithm: Any = None,
) -> Plan:
    """The plan of a run that goes on from the one in `run`; nothing is written.

    out: its folder; None: a fresh one. quiet, dataset, algorithm: as of `restored_plan`.
    Raises InputError for what cannot be, DamagedCheckpoint.
    """
    if jax.process_count() > 1:
        raise InputError("several processes: fine-tuning runs in one")
    import_environment(request.environment)
    if request.horizon is not None and request.environment is None:
        raise InputError(f"horizon {request.horizon}: name the environment that a run without one is to go on in, too")
    before = restored_plan(run, quiet, algorithm, dataset, request.environment, request.horizon)
    if before.task is None:
        raise InputError(f"{run}: its config.json names no environment to go on in; name one with --environment")
    finetuning = request.finetuning(find_parent(run, before))
    stem = f"finetune-{before.algorithm_name}-{before.prepared.record['dataset']}"
    plan, _ = with_device_here(_changed_plan(before, request, finetuning))
    check_counts(plan.algorithm, plan.options)
    return dataclasses.replace(plan, folder=fresh_folder(stem) if out is None else Path(out))


def _changed_plan(plan: Plan, request: FinetuneRequest, finetuning: Finetuning) -> Plan:
    """The plan of the parent as that of a run that goes on from it, in the same folder."""
    _check_algorithm(plan)
    steps, warmup = request.env_steps, finetuning.warmup_env_steps
    if 0 < steps <= warmup:
        raise InputError(f"warm-up of {warmup} env steps: must be shorter than the run, which takes {steps}")
    updates, each = finetuning.updates_after(steps), finetuning.updates_per_step
    algorithm = _changed_algorithm(plan, request.hyperparameters)
    algorithm = dataclasses.replace(algorithm, train_updates=finetuning.parent.update + updates)
    every = request.eval_every_env_steps or max(1, updates // each // EVALUATIONS)
    asked = {"batch_size": request.batch_size, "eval_episodes": request.eval_episodes}
    changes = {name: value for name, value in asked.items() if value is not None}
    # Lanes wait for each other's environments anyway: they are one group.
    options = dataclasses.replace(
        plan.options, eval_every_updates=every * each, lanes_per_group=len(plan.lanes), **changes
    )
    check_batch_size(options, plan.prepared)
    return dataclasses.replace(plan, algorithm=algorithm, options=options, finetuning=finetuning)


def _check_algorithm(plan: Plan) -> None:
    """Refuse what has no rows that an environment could add to."""
    name, columns = plan.algorithm_name, plan.prepared.transitions
    if not isinstance(columns, Transition):
        raise InputError(f"{name} is trained on {type(columns).__name__.lower()}, to which no single step can be added")
    last = plan.algorithm.phases()[-1]
    if last.derive is not None:
        raise InputError(
            f"{name} makes a column of its whole data set before its phase {last.name}, which new steps do not have"
        )


def _changed_algorithm(plan: Plan, hyperparameters: Mapping[str, Any]) -> Any:
    """The algorithm with other hyper-parameters, of those that its networks do not depend on. A rate that decays over
    training would be at its end: it stays what it was at first, unless asked for."""
    algorithm, name = plan.algorithm, plan.algorithm_name
    changes = parse_fields(type(algorithm), hyperparameters)
    for field in changes:
        if field in LENGTHS:
            raise InputError(f"{field}: the length of fine-tuning is given by its environment steps (--env-steps)")
        if field in plan.lanes[0].swept:
            raise InputError(f"{field!r} was swept over lanes: it cannot be changed for all of them")
    if getattr(algorithm, "cosine_decay", False):
        changes = {"cosine_decay": False} | changes
    changed = dataclasses.replace(algorithm, **changes)
    framing = plan.prepared.framing
    if view_of(changed, framing) != view_of(algorithm, framing):
        raise InputError(
            f"{name}: {', '.join(hyperparameters)}: the data were cut for another value; train a run for it"
        )
    if _shapes(changed, plan.prepared.decision) != _shapes(algorithm, plan.prepared.decision):
        raise InputError(f"{name}: {', '.join(hyperparameters)}: changes the networks, which are trained already")
    return changed


def _shapes(algorithm: Any, spec: Spec) -> Any:
    """What a state is made of."""
    state = jax.eval_shape(lambda key: algorithm.init(spec, key), jax.random.key(0))
    leaves, structure = jax.tree.flatten(state)
    return str(structure), [(leaf.shape, leaf.dtype) for leaf in leaves]
