"""Networks on one sample; `vmap` them over batches."""

from tether.networks.box_gaussian import BoxGaussian, BoxGaussianActor
from tether.networks.critics import (
    DiffusionValue,
    DiffusionValueEnsemble,
    QEnsemble,
    ValueNetwork,
    stack_heads,
    unstack_heads,
)
from tether.networks.denoiser import Denoiser, sinusoidal_embedding
from tether.networks.factories import NETWORKS, Network, ResidualMLP, find_network, make_network
from tether.networks.layers import (
    FLAX_EPSILON,
    MLP,
    Initialiser,
    Layers,
    Linear,
    fan_in_uniform,
    glorot_uniform,
    lecun_normal,
    mish,
    orthogonal,
    torch_uniform,
    uniform,
)
from tether.networks.noise import NoiseNetwork
from tether.networks.policies import DeterministicActor, FreeGaussianActor, GaussianActor, ImplicitActor, TanhGaussian
from tether.networks.residual import ResidualNoiseNetwork
from tether.networks.score import EnergyNetwork, ScoreNetwork
from tether.networks.transformer import CausalTransformer, Dropout, dropout
from tether.networks.velocity import VelocityNetwork

__all__ = [
    "FLAX_EPSILON",
    "MLP",
    "NETWORKS",
    "BoxGaussian",
    "BoxGaussianActor",
    "CausalTransformer",
    "Denoiser",
    "DeterministicActor",
    "DiffusionValue",
    "DiffusionValueEnsemble",
    "Dropout",
    "EnergyNetwork",
    "FreeGaussianActor",
    "GaussianActor",
    "ImplicitActor",
    "Initialiser",
    "Layers",
    "Linear",
    "Network",
    "NoiseNetwork",
    "QEnsemble",
    "ResidualMLP",
    "ResidualNoiseNetwork",
    "ScoreNetwork",
    "TanhGaussian",
    "ValueNetwork",
    "VelocityNetwork",
    "dropout",
    "fan_in_uniform",
    "find_network",
    "glorot_uniform",
    "lecun_normal",
    "make_network",
    "mish",
    "orthogonal",
    "sinusoidal_embedding",
    "stack_heads",
    "torch_uniform",
    "uniform",
    "unstack_heads",
]
