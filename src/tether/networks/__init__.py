"""Networks on one sample; `vmap` them over batches."""

from tether.networks.box_gaussian import BoxGaussian, BoxGaussianActor
from tether.networks.critics import DiffusionValue, DiffusionValueEnsemble, QEnsemble, ValueNetwork
from tether.networks.denoiser import Denoiser, sinusoidal_embedding
from tether.networks.layers import MLP, Linear, glorot_uniform, mish, orthogonal, torch_uniform
from tether.networks.noise import NoiseNetwork
from tether.networks.policies import (
    DeterministicActor,
    FreeGaussianActor,
    GaussianActor,
    ImplicitActor,
    TanhGaussian,
)
from tether.networks.residual import ResidualNoiseNetwork
from tether.networks.score import EnergyNetwork, ScoreNetwork
from tether.networks.velocity import VelocityNetwork

__all__ = [
    "MLP",
    "BoxGaussian",
    "BoxGaussianActor",
    "Denoiser",
    "DeterministicActor",
    "DiffusionValue",
    "DiffusionValueEnsemble",
    "EnergyNetwork",
    "FreeGaussianActor",
    "GaussianActor",
    "ImplicitActor",
    "Linear",
    "NoiseNetwork",
    "QEnsemble",
    "ResidualNoiseNetwork",
    "ScoreNetwork",
    "TanhGaussian",
    "ValueNetwork",
    "VelocityNetwork",
    "glorot_uniform",
    "mish",
    "orthogonal",
    "sinusoidal_embedding",
    "torch_uniform",
]
