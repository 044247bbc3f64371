"""RLPD against the numbers of the authors' code: with and without the entropy in the target, two updates each."""

import jax
import jax.numpy as jnp
import pytest
from fixture import Fixture, Link, drawing, heads

from tether.algorithms import rlpd
from tether.algorithms.rlpd import RLPD

ALL = [Link("actor", lambda s: s.actor.network), Link("log_entropy_weight", lambda s: s.log_entropy_weight)]
ALL += heads(lambda s: s.critic, *(f"q{i}" for i in range(1, 5)))
ALL += heads(lambda s: s.target_critic, *(f"target_q{i}" for i in range(1, 5)))


def test_every_number_is_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code's loader clips the data's actions, tether's update does."""
    x = Fixture("rlpd")
    monkeypatch.setattr(rlpd, "clip_actions", lambda batch, max_action: batch)
    sizes = {"hidden_sizes": (x.number("hyper/hidden_size"),) * 2, "ensemble_size": x.number("hyper/ensemble_size")}
    sizes |= {"target_heads": x.number("hyper/target_heads"), "actor_update_interval": 1}
    for case in ("soft", "hard"):
        learner = RLPD(**sizes, entropy_backup=case == "soft")
        state = x.start(learner, ALL)
        with drawing():
            update = jax.jit(learner.update)
            for u in range(2):
                d = x.draws(u)
                key = ((d["subset"], d["next"]), d["actor"])
                state, metrics = update(state, x.batch(u), key, jnp.int32(u))
                names = {"critic_loss": "critic/q_loss", "q": "critic/q", "actor_loss": "actor/loss"}
                names |= {"entropy": "actor/entropy"}
                x.compare_update(case, u, {name: metrics[metric] for name, metric in names.items()})
        x.compare_weights(f"{case}/update2", state, ALL)
    x.verdict()
