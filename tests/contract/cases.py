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
    lagging: frozenset[str] = frozenset()
    """Those targets that move towards the online network as it was before the update."""
    unread: frozenset[str] = frozenset()
    """Numbers that the last phase does not read at all."""
    deterministic: frozenset[str] = frozenset()
    """Variants whose policy gives one action for one observation, whatever the key."""
    structural: frozenset[str] = frozenset()
    """Numbers that are static on purpose: they decide a program's form, or a column of the data."""
    distinct: int = 8
    """More of 64 actions for one observation than this must differ, in the variants that are not deterministic."""


IN_SAMPLE = {  # of IQL and its kin
    *("critic", "target_critic", "critic_optimiser", "value", "value_optimiser"),
    *("actor", "actor_optimiser"),
}

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
            "separate": {
                "penalty_order": "separate",
                "max_q_backup": True,
                "q_layer_norm": True,
                "value_layer_norm": False,
            },
        },
        changes={
            "pretrain": {"behaviour", "behaviour_optimiser", "target_behaviour", "actor", "target_actor"},
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
            "pretrain": {"behaviour", "behaviour_optimiser", "target_behaviour", "actor", "target_actor"},
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
    "bc": Case(
        sizes={"hidden_sizes": (8,)},
        variants={"deterministic": {}, "gaussian": {"actor_kind": "gaussian"}},
        changes={
            "train": {"actor", "actor_optimiser", "entropy"},
        },
        swept="learning_rate",
        targets=(),
        unread=frozenset(["entropy_learning_rate", "entropy_target"]),
        deterministic=frozenset(["deterministic", "gaussian"]),
    ),
    "diffusion-bc": Case(
        sizes={"hidden_sizes": (8,)},
        variants={"main": {"train_updates": 20}},
        changes={
            "train": {"actor", "actor_optimiser", "target_actor"},
        },
        swept="learning_rate",
        targets=(("target_actor", "actor", "target_rate"),),
    ),
    "dt": Case(
        sizes={"width": 8, "block_count": 1, "context_length": 3, "episode_length": 6, "warmup_updates": 5},
        variants={"main": {"gradient_norm": 0.01}},
        changes={"train": {"model", "optimiser"}},
        swept="learning_rate",
        unread=frozenset(["target_return"]),
        deterministic=frozenset(["main"]),
    ),
    "dql": Case(
        sizes={"hidden_sizes": (8,), "candidates": 8, "backup_samples": 2, "diffusion_steps": 2},
        variants={
            "main": {"train_updates": 20, "gradient_norm": 0.1},
            "max-q": {"max_q_backup": True, "cosine_decay": False},
        },
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser"},
        },
        swept="q_weight",
        targets=(("target_critic", "critic", "target_rate"),),
    ),
    "edp": Case(
        sizes={"hidden_sizes": (8,), "candidates": 8, "draws": 2, "diffusion_steps": 21},
        variants={"td3": {"gradient_norm": 0.1}, "crr": {"mode": "crr"}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser", "target_actor"},
        },
        swept="learning_rate",
        targets=(("target_critic", "critic", "target_rate"),),
        unread=frozenset(["expectile"]),
    ),
    "idql": Case(
        sizes={"hidden_sizes": (8,), "width": 16, "block_count": 1, "candidates": 8, "diffusion_steps": 3},
        variants={"main": {"train_updates": 20}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser", "target_actor"},
        },
        swept="expectile",
        targets=(("target_critic", "critic.q", "target_rate"), ("target_actor", "actor", "actor_target_rate")),
    ),
    "srpo": Case(
        sizes={"hidden_sizes": (8,), "actor_hidden_sizes": (8,), "width": 8, "block_count": 1},
        variants={"main": {"train_updates": 20}, "normalized": {"normalize_gradient": True}},
        changes={
            "behaviour": {"behaviour", "behaviour_optimiser"},
            "critic": {"critic", "target_critic", "critic_optimiser"},
            "train": {"actor", "actor_optimiser"},
        },
        swept="q_weight",
        targets=(),
        unread=frozenset(["behaviour_learning_rate", "critic_learning_rate", "discount", "expectile", "target_rate"]),
        deterministic=frozenset(["main", "normalized"]),
    ),
    "qgpo": Case(
        sizes={
            "hidden_sizes": (8,),
            "energy_hidden_sizes": (8,),
            "score_widths": (16, 8),
            "support_actions": 3,
            "solver_calls": 3,
        },
        variants={"main": {}},
        changes={
            "behaviour": {"behaviour", "behaviour_optimiser"},
            "critic": {"critic", "target_critic", "critic_optimiser", "energy", "energy_optimiser"},
            "train": {"energy", "energy_optimiser"},
        },
        swept="inverse_temperature",
        unread=frozenset(
            {
                *("behaviour_learning_rate", "critic_learning_rate", "discount", "target_rate"),
                *("value_inverse_temperature", "guidance"),
            }
        ),
        distinct=2,  # an untrained behaviour's actions lie in the box's four corners
    ),
    "sfbc": Case(
        sizes={
            "hidden_sizes": (8,),
            "score_widths": (16, 8),
            "support_actions": 2,
            "candidates": 4,
            "chosen": 2,
            "solver_calls": 3,
        },
        variants={"main": {}},
        changes={
            "behaviour": {"behaviour", "behaviour_optimiser"},
            "critic": {"first_critic", "first_critic_optimiser"},
            "train": {"critic", "critic_optimiser"},
        },
        swept="learning_rate",
        structural=frozenset({"discount"}),
        # the plan reads inverse_temperature, but an untrained critic's values win in no row (tests/test_sfbc.py)
        unread=frozenset({"behaviour_learning_rate", "sharpness", "inverse_temperature"}),
        distinct=2,  # an untrained behaviour's actions lie in the box's four corners
    ),
    "fql": Case(
        sizes={"hidden_sizes": (8,), "flow_steps": 2},
        variants={"mean": {}, "min": {"aggregation": "min", "normalize_q": True}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actors", "actor_optimiser"},
        },
        swept="distillation_weight",
        targets=(("target_critic", "critic", "target_rate"),),
        lagging=frozenset({"target_critic"}),
    ),
    "ifql": Case(
        sizes={"hidden_sizes": (8,), "flow_steps": 2, "candidates": 8},
        variants={"main": {}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser"},
        },
        swept="expectile",
        targets=(("target_critic", "critic.q", "target_rate"),),
        lagging=frozenset({"target_critic"}),
    ),
    "best-of-n": Case(
        sizes={"hidden_sizes": (8,), "flow_steps": 2, "candidates": 8, "next_candidates": 2},
        variants={"mean": {}, "min": {"aggregation": "min"}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "flow", "flow_optimiser"},
        },
        swept="discount",
        targets=(("target_critic", "critic", "target_rate"),),
        lagging=frozenset({"target_critic"}),
    ),
    "dsrl": Case(
        sizes={"hidden_sizes": (8,), "behaviour_hidden_sizes": (8,), "flow_steps": 2},
        variants={"main": {}},
        changes={
            "pretrain": {"flow", "flow_optimiser"},
            "train": {
                *("critic", "target_critic", "critic_optimiser", "noise_critic", "noise_optimiser"),
                *("actor", "actor_optimiser", "log_entropy_weight", "entropy_optimiser"),
            },
        },
        swept="noise_bound",
        targets=(("target_critic", "critic", "target_rate"),),
        unread=frozenset({"behaviour_learning_rate"}),
    ),
    "iql": Case(
        sizes={"hidden_sizes": (8,)},
        variants={"main": {"train_updates": 20}},
        changes={"train": IN_SAMPLE},
        swept="expectile",
        structural=frozenset({"actor_dropout"}),
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=frozenset(["main"]),
    ),
    "sql": Case(
        sizes={"hidden_sizes": (8,)},
        variants={"main": {"train_updates": 20, "actor_dropout": 0.1}},
        changes={"train": IN_SAMPLE},
        swept="alpha",
        structural=frozenset({"actor_dropout"}),
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=frozenset(["main"]),
    ),
    "eql": Case(
        sizes={"hidden_sizes": (8,)},
        variants={"main": {"train_updates": 20}},
        changes={"train": IN_SAMPLE},
        swept="alpha",
        structural=frozenset({"actor_dropout"}),
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=frozenset(["main"]),
    ),
    "xql": Case(
        sizes={"hidden_sizes": (8,)},
        variants={
            "main": {
                **{"train_updates": 20, "uniform_actions": True, "noisy_actions": True, "value_updates": 2},
                **{"alpha": 0.1, "exponent_limit": 2.0},  # low, so that the limit is reached
            },
        },
        changes={"train": IN_SAMPLE},
        swept="alpha",
        structural=frozenset({"actor_dropout"}),
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=frozenset(["main"]),
    ),
    "awac": Case(
        sizes={"hidden_sizes": (8,)},
        variants={"main": {}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser"},
        },
        swept="temperature",
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=frozenset(["main"]),
    ),
    "awr": Case(
        sizes={"hidden_sizes": (8,)},
        variants={"main": {}},
        changes={
            "pretrain": {"value", "value_optimiser"},
            "train": {"actor", "actor_optimiser"},
        },
        swept="temperature",
        structural=frozenset({"discount"}),
        targets=(),
        unread=frozenset(["value_learning_rate"]),
        deterministic=frozenset(["main"]),
    ),
    "onestep": Case(
        sizes={"hidden_sizes": (8,), "samples": 2},
        variants={"reverse-kl": {}, "exp-weight": {"operator": "exp-weight"}},
        changes={
            "behaviour": {"behaviour", "behaviour_optimiser"},
            "critic": {"critic", "target_critic", "critic_optimiser"},
            "train": {"actor", "actor_optimiser"},
        },
        swept="learning_rate",
        targets=(),
        unread=frozenset(["discount", "inverse_temperature", "target_rate"]),
        deterministic=frozenset(["exp-weight", "reverse-kl"]),
    ),
    "td3-bc": Case(
        sizes={"hidden_sizes": (8,), "actor_update_interval": 1, "target_noise": 1.0},  # the limit of 0.5 is felt
        variants={"main": {}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser", "target_actor"},
        },
        swept="q_weight",
        targets=(("target_critic", "critic", "target_rate"), ("target_actor", "actor", "target_rate")),
        deterministic=frozenset(["main"]),
    ),
    "rebrac": Case(
        sizes={"hidden_sizes": (8,), "actor_update_interval": 1, "target_noise": 1.0},  # the limit of 0.5 is felt
        variants={"main": {}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser", "target_actor"},
        },
        swept="critic_penalty",
        targets=(("target_critic", "critic", "target_rate"), ("target_actor", "actor", "target_rate")),
        lagging=frozenset({"target_actor"}),
        deterministic=frozenset(["main"]),
    ),
    "bcq": Case(
        sizes={"hidden_sizes": (8,), "vae_hidden_sizes": (8,), "next_candidates": 2, "candidates": 64},
        variants={"main": {}},
        changes={
            "train": {
                "vae",
                "vae_optimiser",
                "critic",
                "target_critic",
                "critic_optimiser",
                "perturbation",
                "target_perturbation",
                "perturbation_optimiser",
            },
        },
        swept="perturbation_size",
        targets=(("target_critic", "critic", "target_rate"), ("target_perturbation", "perturbation", "target_rate")),
    ),
    "bear": Case(
        sizes={"hidden_sizes": (8,), "vae_hidden_sizes": (8,), "next_actions": 2, "candidates": 8, "warmup_updates": 2},
        variants={"gaussian": {}, "laplacian": {"kernel": "laplacian"}},
        changes={
            "train": {
                "vae",
                "vae_optimiser",
                "log_multiplier",
                "multiplier_optimiser",
                "critic",
                "target_critic",
                "critic_optimiser",
                "actor",
                "actor_optimiser",
            },
        },
        swept="kernel_width",
        targets=(("target_critic", "critic", "target_rate"),),
    ),
    "brac-p": Case(
        sizes={"hidden_sizes": (8,), "actor_hidden_sizes": (8,), "samples": 2, "warmup_updates": 2},
        variants={"main": {}},
        changes={
            "pretrain": {"behaviour", "behaviour_optimiser", "log_entropy_weight", "entropy_optimiser"},
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser"},
        },
        swept="kl_weight",
        targets=(("target_critic", "critic", "target_rate"),),
        unread=frozenset(["behaviour_learning_rate", "entropy_target"]),
        deterministic=frozenset(["main"]),
    ),
    "brac-v": Case(
        sizes={"hidden_sizes": (8,), "actor_hidden_sizes": (8,), "samples": 2, "warmup_updates": 2},
        variants={"main": {}},
        changes={
            "pretrain": {"behaviour", "behaviour_optimiser", "log_entropy_weight", "entropy_optimiser"},
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser"},
        },
        swept="kl_weight",
        targets=(("target_critic", "critic", "target_rate"),),
        unread=frozenset(["behaviour_learning_rate", "entropy_target"]),
        deterministic=frozenset(["main"]),
    ),
    "cql": Case(
        sizes={"hidden_sizes": (8,), "actor_hidden_sizes": (8,), "proposals": 2},
        variants={"main": {}, "lagrange": {"lagrange": True, "max_q_backup": True, "gap_floor": -200.0}},
        changes={
            "train": {
                "critic",
                "target_critic",
                "critic_optimiser",
                "actor",
                "actor_optimiser",
                "log_entropy_weight",
                "entropy_optimiser",
                "multiplier",  # without leaves but in the Lagrange form
            },
        },
        swept="penalty_weight",
        structural=frozenset({"gap_floor"}),
        targets=(("target_critic", "critic", "target_rate"),),
        unread=frozenset(["penalty_target"]),
        deterministic=frozenset(["lagrange", "main"]),
    ),
    "cal-ql": Case(
        sizes={"hidden_sizes": (8,), "actor_hidden_sizes": (8,), "proposals": 2},
        variants={"lagrange": {}, "main": {"lagrange": False, "max_q_backup": False, "gap_floor": -200.0}},
        changes={
            "train": {
                "critic",
                "target_critic",
                "critic_optimiser",
                "actor",
                "actor_optimiser",
                "log_entropy_weight",
                "entropy_optimiser",
                "multiplier",  # without leaves but in the Lagrange form
            },
        },
        swept="penalty_weight",
        structural=frozenset({"gap_floor", "discount"}),
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=frozenset(["lagrange", "main"]),
    ),
    "rem": Case(
        sizes={"hidden_sizes": (8,), "head_count": 3, "actor_update_interval": 1, "target_noise": 1.0},
        variants={"main": {}},
        changes={
            "train": {"critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser", "target_actor"},
        },
        swept="critic_learning_rate",
        targets=(("target_critic", "critic", "target_rate"), ("target_actor", "actor", "target_rate")),
        deterministic=frozenset(["main"]),
    ),
    "sac": Case(
        sizes={"hidden_sizes": (8,)},
        variants={"main": {}},
        changes={
            "train": {
                "critic",
                "target_critic",
                "critic_optimiser",
                "actor",
                "actor_optimiser",
                "log_entropy_weight",
                "entropy_optimiser",
            },
        },
        swept="entropy_target",
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=frozenset(["main"]),
    ),
    "rlpd": Case(
        sizes={"hidden_sizes": (8,), "ensemble_size": 3, "actor_update_interval": 1},
        variants={"soft": {}, "hard": {"entropy_backup": False, "target_heads": 1}},
        changes={
            "train": {
                *("critic", "target_critic", "critic_optimiser", "actor", "actor_optimiser"),
                *("log_entropy_weight", "entropy_optimiser"),
            },
        },
        swept="learning_rate",
        targets=(("target_critic", "critic", "target_rate"),),
        deterministic=frozenset(["hard", "soft"]),
    ),
}
