"""The contract suite's table: small settings of every algorithm, and what its updates may touch."""

from typing import Any, NamedTuple

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """An algorithm's row. Fields of State are named by what `init` returns."""

    sizes: dict[str, Any]
    """Hyper-parameters that make it small; every variant has them."""
    variants: dict[str, dict[str, Any]]
    """Variant -> hyper-parameters; the first is the main one, which the slower tests take alone."""
    changes: dict[str, set[str]]
    """Phase -> State fields of which an update changes every array; no others may change."""
    swept: str
    """A number that the last phase feels at once."""
    targets: tuple[tuple[str, str, str], ...] = ()
    """(target, online, rate), moved by the last phase."""
    unread: frozenset[str] = frozenset()
    """Numbers that the last phase does not read at all."""
    deterministic: frozenset[str] = frozenset()
    """Variants whose policy gives one action for one observation, whatever the key."""


CASES: dict[str, Case] = {
    "dtql": Case(
        sizes={"hidden_sizes": (8,), "denoiser_hidden_sizes": (8,), "time_embedding_size": 4, "candidates": 16},
        variants={
            "mean-abs": {"log_likelihood_weight": 0.5},
            "raw-q-cosine": {
                "q_normalization": "none",
                "cosine_decay": True,
                "train_updates": 20,
                "clip_denoised": False,
            },
            "implicit": {"actor_kind": "implicit"},
        },
        changes={
            "pretrain": {"critic", "critic_optimiser", "denoiser", "denoiser_optimiser"},
            "train": {
                *("critic", "critic_optimiser", "denoiser", "denoiser_optimiser"),
                *("actor", "actor_optimiser", "target_q"),
            },
        },
        swept="trust_region_weight",
        targets=(("target_q", "critic.q", "target_rate"),),
    ),
    "dtql-kl": Case(
        sizes={"hidden_sizes": (8,), "denoiser_hidden_sizes": (8,), "time_embedding_size": 4, "candidates": 16},
        variants={"mean-abs": {}, "raw-q": {"q_normalization": "none", "start_from_denoiser": False}},
        changes={
            "pretrain": {"critic", "critic_optimiser", "denoiser", "denoiser_optimiser"},
            "train": {
                *("critic", "critic_optimiser", "denoiser", "denoiser_optimiser", "target_q"),
                *("actor", "actor_optimiser", "fake_denoiser", "fake_optimiser"),
            },
        },
        swept="kl_weight",
        targets=(("target_q", "critic.q", "target_rate"),),
    ),
    "dac": Case(
        sizes={
            "hidden_sizes": (8,),
            "time_embedding_size": 4,
            "diffusion_steps": 5,
            "ensemble_size": 2,
            "next_actions": 2,
            "candidates": 3,
        },
        variants={
            "soft": {"train_updates": 20},
            "denoised": {"guidance": "denoised", "head_aggregation": "min", "cosine_decay": False},
        },
        changes={  # the actor's average first moves in update 1005 (tests/test_dac.py)
            "train": {"critic", "critic_optimiser", "target_critic", "actor", "actor_optimiser", "eta"},
        },
        swept="eta_learning_rate",
        targets=(("target_critic", "critic", "target_rate"),),
        unread=frozenset({"eta_init"}),
    ),
    "bdpo": Case(
        sizes={
            "hidden_sizes": (8,),
            "noise_hidden_sizes": (8,),
            "time_embedding_size": 4,
            "ensemble_size": 2,
            "samples": 2,
            "candidates": 3,
            "actor_warmup_updates": 0,
            "actor_update_interval": 1,
        },
        variants={
            "discounted": {"train_updates": 20},
            "separate": {"penalty_order": "separate", "max_q_backup": True, "q_layer_norm": True},
        },
        changes={
            "pretrain": {"behaviour", "behaviour_optimiser", "target_behaviour"},
            "train": {
                *("critics", "target_critics", "q_optimiser", "value_optimiser"),
                *("actor", "actor_optimiser", "target_actor"),
            },
        },
        swept="eta",
        targets=(("target_critics", "critics", "target_rate"), ("target_actor", "actor", "target_rate")),
        unread=frozenset({"behaviour_learning_rate"}),
    ),
    "bdpo-unimodal": Case(
        sizes={
            "hidden_sizes": (8,),
            "actor_hidden_sizes": (8,),
            "ensemble_size": 2,
            "samples": 2,
            "candidates": 3,
            "actor_warmup_updates": 0,
            "actor_update_interval": 1,
        },
        variants={
            "gaussian": {"train_updates": 20},
            "deterministic": {"actor_kind": "deterministic", "penalty_order": "discounted"},
        },
        changes={
            "pretrain": {"behaviour", "behaviour_optimiser", "target_behaviour"},
            "train": {
                *("critic", "target_critic", "critic_optimiser"),
                *("actor", "actor_optimiser", "target_actor"),
            },
        },
        swept="eta",
        targets=(("target_critic", "critic", "target_rate"), ("target_actor", "actor", "target_rate")),
        unread=frozenset({"behaviour_learning_rate"}),
        deterministic=frozenset({"deterministic"}),
    ),
}
