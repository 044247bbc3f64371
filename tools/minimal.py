"""What an update must compute, by formula: the matmuls of the papers' networks, each pass once.

For every phase of every algorithm a list of passes, `network.PASS(rows)`:

    forward   a value is needed, no gradient: targets, chains, frozen judges
    train     value, gradient of the weights, and the gradients that must flow back inside the network to get there
    slope     value and its gradient with respect to the action input alone: the network itself is frozen

A multiply-add is two operations. Rows: those of the minibatch, times samples of an action. What two losses need of the
same network at the same input is counted once. Element-wise work is not counted, and nothing is assumed that would
change an algorithm: values of all rows and heads are needed where a minimum or a mean over them is.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tether.types import Spec

__all__ = ["MINIMAL", "Network", "Work", "minimal_work"]


class Work(NamedTuple):
    """Floating-point operations of matmuls."""

    forward: float
    weights: float  # gradients of weights
    inputs: float  # gradients of layers' inputs

    @property
    def total(self) -> float:
        """All of it."""
        return self.forward + self.weights + self.inputs

    def times(self, factor: float) -> "Work":
        """So many of it; 1/5 of what is due in every fifth update."""
        return Work(*(factor * part for part in self))


class Network(NamedTuple):
    """Multiply-adds for one row."""

    size: float  # of a forward pass; as many for the gradients of all weights
    back: float  # gradients of layers' inputs, where the network trains: all but those of raw inputs
    through: float  # from the output back to where the action enters
    entry: float  # from there to the action itself
    step: float = 0.0  # part of `size`: a small network on the diffusion step alone

    def times(self, copies: int) -> "Network":
        """An ensemble of it."""
        return Network(*(copies * part for part in self))

    def forward(self, rows: float, steps: float | None = None) -> Work:
        """Values. steps: how many different diffusion steps there are, where rows share them."""
        return Work(2.0 * (rows * (self.size - self.step) + (rows if steps is None else steps) * self.step), 0.0, 0.0)

    def train(self, rows: float, inputs: float = 0.0) -> Work:
        """Values and gradients of the weights. inputs: multiply-adds of a raw input's gradient, if that is needed."""
        return Work(2.0 * rows * self.size, 2.0 * rows * self.size, 2.0 * rows * (self.back + inputs))

    def slope(self, rows: float, steps: float | None = None) -> Work:
        """Values and gradients of the action."""
        return self.forward(rows, steps)._replace(inputs=2.0 * rows * (self.through + self.entry))

    def train_chain(self, rows: float, steps: int) -> Work:
        """A diffusion chain with the gradient of the weights through every step; the first action is noise."""
        each = 2.0 * rows * (self.size - self.step)
        back = 2.0 * rows * (steps * self.through + (steps - 1) * self.entry)
        return Work(steps * each, steps * each, back)


def mlp(sizes: Sequence[int], action: int = 0) -> Network:
    """Layers of these sizes; `action` of its inputs are an action."""
    layers = [m * n for m, n in itertools.pairwise(sizes)]
    size, first = sum(layers), layers[0]
    return Network(size, size - first, size - first, action * sizes[1])


def conditioned(sizes: Sequence[int], time: Sequence[int], action: int, time_input: bool = False) -> Network:
    """`mlp(sizes)` where the last inputs are what another MLP, of sizes `time`, makes of the diffusion step.

    time_input: whether that one's own input trains, too.
    """
    main, side = mlp(sizes, action), mlp(time)
    into_time = time[-1] * sizes[1] + side.back + (time[0] * time[1] if time_input else 0)
    return Network(main.size + side.size, main.back + into_time, main.through, main.entry, side.size)


# --- networks, as src/tether/networks makes them ---


def q_network(spec: Spec, hidden: Sequence[int], heads: int = 2) -> Network:
    """Q(s, a)."""
    return mlp((spec.observation_size + spec.action_size, *hidden, 1), spec.action_size).times(heads)


def v_network(spec: Spec, hidden: Sequence[int]) -> Network:
    """V(s)."""
    return mlp((spec.observation_size, *hidden, 1))


def actor_network(spec: Spec, hidden: Sequence[int], outputs: int = 1) -> Network:
    """pi(s): `outputs` numbers for each coordinate of the action."""
    return mlp((spec.observation_size, *hidden, outputs * spec.action_size))


def denoiser(spec: Spec, hidden: Sequence[int], time: int) -> Network:
    """DTQL's F(a, s, sigma)."""
    sizes = (spec.observation_size + spec.action_size + time, hidden[0], *hidden, spec.action_size)
    return conditioned(sizes, (time, 2 * time, time), spec.action_size)


def noise_network(spec: Spec, hidden: Sequence[int], time: Sequence[int]) -> Network:
    """eps(a, s, n)."""
    sizes = (spec.observation_size + spec.action_size + time[-1], *hidden, spec.action_size)
    return conditioned(sizes, time, spec.action_size)


def dql_network(spec: Spec, hidden: Sequence[int]) -> Network:
    """That of Diffusion-QL."""
    return noise_network(spec, hidden, (16, 32, 16))


def diffusion_value(spec: Spec, hidden: Sequence[int], time: int, heads: int) -> Network:
    """BDPO's V_n(s, a_n)."""
    sizes = (spec.observation_size + spec.action_size + time, *hidden, 1)
    return conditioned(sizes, (time, 2 * time, time), spec.action_size).times(heads)


def residual_network(spec: Spec, width: int, blocks: int, frequencies_train: bool) -> Network:
    """The residual network with LayerNorm of IDQL and SRPO."""
    inner = (4 * width, width) * blocks
    sizes = (spec.observation_size + spec.action_size + 128, width, *inner, spec.action_size)
    return conditioned(sizes, (64, 128, 128), spec.action_size, frequencies_train)


def score_network(spec: Spec, widths: Sequence[int]) -> Network:
    """The U of SfBC and QGPO."""
    narrow, time, state = widths[-1], 32, 32
    raw = spec.observation_size * state + time * time  # what reads inputs that need no gradient
    condition = (state + time) * narrow + narrow * narrow

    def block(m: int, n: int) -> int:
        return m * n + narrow * n + n * n + (0 if m == n else m * n)

    down = [block(m, n) for m, n in zip((spec.action_size, *widths[:-1]), widths, strict=True)]
    middle = block(narrow, narrow)
    up = [block(n, n) for n in reversed(widths[:-1])]
    size = raw + condition + sum(down) + middle + sum(up) + 2 * widths[0] * spec.action_size
    raw += 2 * spec.action_size * widths[0]  # the first block's two maps of the noisy action
    return Network(size, size - raw, 0.0, 0.0)


def energy_network(spec: Spec, hidden: Sequence[int]) -> Network:
    """QGPO's q(a, s, t)."""
    sizes = (spec.observation_size + spec.action_size + 32, *hidden, 1)
    return conditioned(sizes, (32, 32), spec.action_size)


def velocity_network(spec: Spec, hidden: Sequence[int], timed: bool) -> Network:
    """That of flow policies."""
    return mlp((spec.observation_size + spec.action_size + timed, *hidden, spec.action_size))


def vae(spec: Spec, hidden: Sequence[int]) -> tuple[Network, Network]:
    """(both halves as one that trains, the decoder)."""
    latent = 2 * spec.action_size
    encoder = mlp((spec.observation_size + spec.action_size, *hidden, 2 * latent))
    decoder = mlp((spec.observation_size + latent, *hidden, spec.action_size), latent)
    both = Network(encoder.size + decoder.size, encoder.back + decoder.back + decoder.entry, 0.0, 0.0)
    return both, decoder


# --- algorithms: (algorithm, spec, rows of a minibatch) -> {phase: passes} ---

Passes = dict[str, list[Work]]


def dtql(a: Any, spec: Spec, rows: int) -> Passes:
    q, v = q_network(spec, a.hidden_sizes), v_network(spec, a.hidden_sizes)
    behaviour = denoiser(spec, a.denoiser_hidden_sizes, a.time_embedding_size)
    pretrain = [q.train(rows), v.train(rows), v.forward(rows), behaviour.train(rows)]
    actor = actor_network(spec, a.hidden_sizes, 2)  # the Gaussian one
    return {"pretrain": pretrain, "train": [*pretrain, actor.train(rows), behaviour.slope(rows), q.slope(rows)]}


def dtql_kl(a: Any, spec: Spec, rows: int) -> Passes:
    q, v = q_network(spec, a.hidden_sizes), v_network(spec, a.hidden_sizes)
    network = denoiser(spec, a.denoiser_hidden_sizes, a.time_embedding_size)
    pretrain = [q.train(rows), v.train(rows), v.forward(rows), network.train(rows)]
    actor = network.train_chain(rows, 1)  # one step from noise, at a constant noise level
    fake = network.train(rows).times(a.fake_updates)
    return {"pretrain": pretrain, "train": [*pretrain, actor, network.forward(2 * rows), q.slope(rows), fake]}


def dac(a: Any, spec: Spec, rows: int) -> Passes:
    q = q_network(spec, a.hidden_sizes, a.ensemble_size)
    time = a.time_embedding_size
    actor = noise_network(spec, a.hidden_sizes, (time, 2 * time, 2 * time))
    drawn, steps = rows * a.next_actions, a.diffusion_steps
    critic = [actor.forward(drawn * steps, steps), q.forward(drawn), q.train(rows)]
    guidance = [q.forward(rows), q.slope(rows)]  # the scale at the data's actions, the field at the noisy ones
    return {"train": [*critic, *guidance, actor.train(rows)]}


def bdpo(a: Any, spec: Spec, rows: int) -> Passes:
    time, steps = a.time_embedding_size, a.diffusion_steps
    q = q_network(spec, a.hidden_sizes, a.ensemble_size)
    v = diffusion_value(spec, a.hidden_sizes, time, a.ensemble_size)
    network = noise_network(spec, a.noise_hidden_sizes, (time, time, time))
    drawn, chains = rows * a.samples, rows * a.samples * steps
    early, last = (steps - 1) / steps, 1 / steps  # shares of the rows whose next value is V's, and Q's
    q_update = [network.forward(2 * chains, 2 * steps), q.forward(drawn), q.train(rows)]
    follow = [v.forward(early * drawn, early * rows), q.forward(last * drawn)]
    v_update = [network.forward(2 * rows), *follow, v.train(rows)]
    uphill = [v.slope(early * drawn, early * rows), q.slope(last * drawn)]
    actor = [work.times(1 / a.actor_update_interval) for work in (network.forward(rows), network.train(rows), *uphill)]
    return {"pretrain": [network.train(rows)], "train": [*q_update, *v_update, *actor]}


def bdpo_unimodal(a: Any, spec: Spec, rows: int) -> Passes:
    q, actor = q_network(spec, a.hidden_sizes, a.ensemble_size), actor_network(spec, a.actor_hidden_sizes, 2)
    drawn = rows * (1 if a.actor_kind == "deterministic" else a.samples)
    critic = [actor.forward(2 * rows), q.forward(drawn), q.train(rows)]
    policy = [actor.train(rows), actor.forward(rows), q.slope(drawn)]
    return {
        "pretrain": [actor.train(rows)],
        "train": critic + [work.times(1 / a.actor_update_interval) for work in policy],
    }


def bc(a: Any, spec: Spec, rows: int) -> Passes:
    return {"train": [actor_network(spec, a.hidden_sizes, 2 if a.actor_kind == "gaussian" else 1).train(rows)]}


def diffusion_bc(a: Any, spec: Spec, rows: int) -> Passes:
    return {"train": [dql_network(spec, a.hidden_sizes).train(rows)]}


def dt(a: Any, spec: Spec, rows: int) -> Passes:
    """Of the last block only the tokens of states are read, so only they need more than keys and values."""
    steps, width = rows * a.context_length, a.width
    tokens, window = 3 * steps, 3 * a.context_length
    embedding = Network((1 + spec.observation_size + spec.action_size) * width, 0.0, 0.0, 0.0)
    rest = 2 * width**2 + 8 * width**2  # query and output, both layers of the MLP
    dense = Network(width * (2 * width), width * (2 * width), 0.0, 0.0)  # keys and values
    per_token = Network(rest, rest, 0.0, 0.0)
    attention = Work(4.0 * window * width, 0.0, 8.0 * window * width)  # both products have two inputs that train
    full = a.block_count - 1
    blocks = [dense.train(a.block_count * tokens), per_token.train(full * tokens + steps)]
    blocks += [attention.times(full * tokens + steps)]
    head = Network(width * spec.action_size, width * spec.action_size, 0.0, 0.0)
    return {"train": [embedding.train(steps), *blocks, head.train(steps)]}


def dql(a: Any, spec: Spec, rows: int) -> Passes:
    q, actor, steps = q_network(spec, a.hidden_sizes), dql_network(spec, a.hidden_sizes), a.diffusion_steps
    drawn = rows * (a.backup_samples if a.max_q_backup else 1)
    critic = [actor.forward(drawn * steps, steps), q.forward(drawn), q.train(rows)]
    one = q_network(spec, a.hidden_sizes, 1)  # a coin says which head is climbed, the other one scales
    return {"train": [*critic, actor.train(rows), actor.train_chain(rows, steps), one.slope(rows), one.forward(rows)]}


def edp(a: Any, spec: Spec, rows: int) -> Passes:
    """In td3 mode."""
    q, actor, steps = q_network(spec, a.hidden_sizes), dql_network(spec, a.hidden_sizes), a.diffusion_steps
    drawn = rows * (a.draws if a.max_q_backup else 1)
    critic = [actor.forward(drawn * steps, steps), q.forward(drawn), q.train(rows)]
    return {"train": [*critic, actor.train(rows), q_network(spec, a.hidden_sizes, 1).slope(rows)]}


def in_sample_critic(a: Any, spec: Spec, rows: int) -> list[Work]:
    """Of IDQL, SRPO, IFQL."""
    q, v = q_network(spec, a.hidden_sizes), v_network(spec, a.hidden_sizes)
    return [q.forward(rows), v.train(rows), v.forward(rows), q.train(rows)]


def idql(a: Any, spec: Spec, rows: int) -> Passes:
    actor = residual_network(spec, a.width, a.block_count, frequencies_train=True)
    return {"train": [*in_sample_critic(a, spec, rows), actor.train(rows)]}


def srpo(a: Any, spec: Spec, rows: int) -> Passes:
    behaviour = residual_network(spec, a.width, a.block_count, frequencies_train=False)
    actor, q = actor_network(spec, a.actor_hidden_sizes), q_network(spec, a.hidden_sizes)
    return {
        "behaviour": [behaviour.train(rows)],
        "critic": in_sample_critic(a, spec, rows),
        "train": [actor.train(rows), behaviour.forward(rows), q.slope(rows)],
    }


def qgpo(a: Any, spec: Spec, rows: int) -> Passes:
    q, drawn = q_network(spec, a.hidden_sizes), rows * a.support_actions
    energy = [q.forward(drawn), energy_network(spec, a.energy_hidden_sizes).train(drawn)]
    return {
        "behaviour": [score_network(spec, a.score_widths).train(rows)],
        "critic": [q.forward(drawn), q.train(rows), *energy],
        "train": energy,
    }


def sfbc(a: Any, spec: Spec, rows: int) -> Passes:
    critic = [q_network(spec, a.hidden_sizes, 1).train(rows)]
    return {"behaviour": [score_network(spec, a.score_widths).train(rows)], "critic": critic, "train": critic}


def fql(a: Any, spec: Spec, rows: int) -> Passes:
    q, flow = q_network(spec, a.hidden_sizes), velocity_network(spec, a.hidden_sizes, timed=True)
    one_step = velocity_network(spec, a.hidden_sizes, timed=False)
    critic = [one_step.forward(rows), q.forward(rows), q.train(rows)]
    actors = [flow.train(rows), flow.forward(rows * a.flow_steps), one_step.train(rows), q.slope(rows)]
    return {"train": [*critic, *actors]}


def ifql(a: Any, spec: Spec, rows: int) -> Passes:
    return {"train": [*in_sample_critic(a, spec, rows), velocity_network(spec, a.hidden_sizes, timed=True).train(rows)]}


def best_of_n(a: Any, spec: Spec, rows: int) -> Passes:
    q, flow = q_network(spec, a.hidden_sizes), velocity_network(spec, a.hidden_sizes, timed=True)
    drawn = rows * a.next_candidates
    critic = [flow.forward(drawn * a.flow_steps), q.forward(drawn), q.forward(rows), q.train(rows)]
    return {"train": [*critic, flow.train(rows)]}


def iql(a: Any, spec: Spec, rows: int) -> Passes:
    """V before its update at s, and after it at s and s'."""
    q, v = q_network(spec, a.hidden_sizes), v_network(spec, a.hidden_sizes)
    values = [q.forward(rows), v.train(rows), v.forward(2 * rows)]
    return {"train": [*values, actor_network(spec, a.hidden_sizes).train(rows), q.train(rows)]}


def awac(a: Any, spec: Spec, rows: int) -> Passes:
    """The advantage needs the moved critic at the data's action and at one of the actor, which trains there, too."""
    q, actor = q_network(spec, a.hidden_sizes), actor_network(spec, a.hidden_sizes)
    return {
        "train": [actor.forward(rows), q.forward(rows), q.train(rows), q.forward(2 * rows), actor.train(rows)],
    }


def awr(a: Any, spec: Spec, rows: int) -> Passes:
    value, actor = v_network(spec, a.hidden_sizes), actor_network(spec, a.hidden_sizes)
    return {"pretrain": [value.train(rows)], "train": [actor.train(rows)]}


def onestep(a: Any, spec: Spec, rows: int) -> Passes:
    """With the operator reverse-kl."""
    q, actor = q_network(spec, a.hidden_sizes, 1), actor_network(spec, a.hidden_sizes, 2)
    return {
        "behaviour": [actor.train(rows)],
        "critic": [q.forward(rows), q.train(rows)],
        "train": [actor.train(rows), actor.forward(rows), q.slope(rows * a.samples)],
    }


def td3_bc(a: Any, spec: Spec, rows: int, judges: int = 1) -> Passes:
    q, actor = q_network(spec, a.hidden_sizes), actor_network(spec, a.hidden_sizes)
    policy = [actor.train(rows), q_network(spec, a.hidden_sizes, judges).slope(rows)]
    delayed = [work.times(1 / a.actor_update_interval) for work in policy]
    return {"train": [actor.forward(rows), q.forward(rows), q.train(rows), *delayed]}


def rebrac(a: Any, spec: Spec, rows: int) -> Passes:
    return td3_bc(a, spec, rows, judges=2)


def bcq(a: Any, spec: Spec, rows: int) -> Passes:
    both, decoder = vae(spec, a.vae_hidden_sizes)
    q, first = q_network(spec, a.hidden_sizes), q_network(spec, a.hidden_sizes, 1)
    perturbation = mlp((spec.observation_size + spec.action_size, *a.hidden_sizes, spec.action_size))
    drawn = rows * a.next_candidates
    target = [decoder.forward(drawn), perturbation.forward(drawn), q.forward(drawn)]
    policy = [decoder.forward(rows), perturbation.train(rows), first.slope(rows)]
    return {"train": [both.train(rows), *target, q.train(rows), *policy]}


def bear(a: Any, spec: Spec, rows: int) -> Passes:
    both, decoder = vae(spec, a.vae_hidden_sizes)
    q, actor = q_network(spec, a.hidden_sizes), actor_network(spec, a.hidden_sizes, 2)
    critic = [actor.forward(rows), q.forward(rows * a.next_actions), q.train(rows)]
    policy = [decoder.forward(rows * a.mmd_samples), actor.train(rows), q.slope(rows)]
    return {"train": [both.train(rows), *critic, *policy]}


def brac(a: Any, spec: Spec, rows: int, value_penalty: bool = False) -> Passes:
    q, actor = q_network(spec, a.hidden_sizes), actor_network(spec, a.actor_hidden_sizes, 2)
    target = [actor.forward(2 * rows if value_penalty else rows), q.forward(rows)]
    policy = [actor.train(rows), actor.forward(rows), q.slope(rows)]
    return {"pretrain": [actor.train(rows)], "train": [*target, q.train(rows), *policy]}


def brac_v(a: Any, spec: Spec, rows: int) -> Passes:
    return brac(a, spec, rows, value_penalty=True)


def cql(a: Any, spec: Spec, rows: int) -> Passes:
    """The policy at s serves its own loss and the proposals, that at s' the target and the proposals."""
    q, actor = q_network(spec, a.hidden_sizes), actor_network(spec, a.actor_hidden_sizes, 2)
    judged = rows * (a.proposals if a.max_q_backup else 1)
    critic = [actor.forward(rows), q.forward(judged), q.train(rows * (1 + 3 * a.proposals))]
    return {"train": [*critic, actor.train(rows), q.slope(rows)]}


def rem(a: Any, spec: Spec, rows: int) -> Passes:
    trunk = mlp((spec.observation_size + spec.action_size, *a.hidden_sizes, a.head_count), spec.action_size)
    actor = actor_network(spec, a.hidden_sizes)
    delayed = [work.times(1 / a.actor_update_interval) for work in (actor.train(rows), trunk.slope(rows))]
    return {"train": [actor.forward(rows), trunk.times(2).forward(rows), trunk.times(2).train(rows), *delayed]}


def sac(a: Any, spec: Spec, rows: int) -> Passes:
    q, actor = q_network(spec, a.hidden_sizes), actor_network(spec, a.hidden_sizes, 2)
    return {
        "train": [actor.forward(rows), q.forward(rows), q.train(rows), actor.train(rows), q.slope(rows)],
    }


def rlpd(a: Any, spec: Spec, rows: int) -> Passes:
    q, actor = q_network(spec, a.hidden_sizes, a.ensemble_size), actor_network(spec, a.hidden_sizes, 2)
    target = [actor.forward(rows), q_network(spec, a.hidden_sizes, a.target_heads).forward(rows)]
    delayed = [work.times(1 / a.actor_update_interval) for work in (actor.train(rows), q.slope(rows))]
    return {"train": [*target, q.train(rows), *delayed]}


def dsrl(a: Any, spec: Spec, rows: int) -> Passes:
    q, actor = q_network(spec, a.hidden_sizes, a.ensemble_size), actor_network(spec, a.hidden_sizes, 2)
    flow = velocity_network(spec, a.behaviour_hidden_sizes, timed=True)
    critic = [actor.forward(rows), flow.forward(rows * a.flow_steps), q.forward(rows), q.train(rows)]
    noise = [flow.forward(rows * a.flow_steps), q.forward(rows), q.train(rows)]
    return {"pretrain": [flow.train(rows)], "train": [*critic, *noise, actor.train(rows), q.slope(rows)]}


MINIMAL: dict[str, Callable[[Any, Spec, int], Passes]] = {
    "dtql": dtql,
    "dtql-kl": dtql_kl,
    "dac": dac,
    "bdpo": bdpo,
    "bdpo-unimodal": bdpo_unimodal,
    "bc": bc,
    "diffusion-bc": diffusion_bc,
    "dt": dt,
    "dql": dql,
    "edp": edp,
    "idql": idql,
    "srpo": srpo,
    "qgpo": qgpo,
    "sfbc": sfbc,
    "fql": fql,
    "ifql": ifql,
    "best-of-n": best_of_n,
    "dsrl": dsrl,
    "iql": iql,
    "sql": iql,
    "eql": iql,
    "xql": iql,
    "awac": awac,
    "awr": awr,
    "onestep": onestep,
    "td3-bc": td3_bc,
    "rebrac": rebrac,
    "bcq": bcq,
    "bear": bear,
    "brac-p": brac,
    "brac-v": brac_v,
    "cql": cql,
    "cal-ql": cql,
    "rem": rem,
    "sac": sac,
    "rlpd": rlpd,
}
"""Formulas for the default structure of each algorithm."""


def minimal_work(name: str, algorithm: Any, phase: int, spec: Spec, batch_size: int) -> Work:
    """What one update of a phase must compute, on average over the algorithm's update intervals."""
    passes = MINIMAL[name](algorithm, spec, batch_size)[algorithm.phases()[phase].name]
    return Work(*(sum(parts) for parts in zip(*passes, strict=True)))
