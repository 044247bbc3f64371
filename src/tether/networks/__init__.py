"""Networks on one sample; `vmap` them over batches."""

from tether.networks.critics import DiffusionValue, DiffusionValueEnsemble, QEnsemble, ValueNetwork
from tether.networks.denoiser import Denoiser, sinusoidal_embedding
from tether.networks.layers import MLP, Linear, glorot_uniform, mish, orthogonal, torch_uniform
from tether.networks.noise import NoiseNetwork
from tether.networks.policies import GaussianActor, ImplicitActor, TanhGaussian

__all__ = [
    "MLP",
    "Denoiser",
    "DiffusionValue",
    "DiffusionValueEnsemble",
    "GaussianActor",
    "ImplicitActor",
    "Linear",
    "NoiseNetwork",
    "QEnsemble",
    "TanhGaussian",
    "ValueNetwork",
    "glorot_uniform",
    "mish",
    "orthogonal",
    "sinusoidal_embedding",
    "torch_uniform",
]
