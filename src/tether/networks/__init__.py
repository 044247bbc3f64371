"""Networks on one sample; `vmap` them over batches."""

from tether.networks.critics import QEnsemble, ValueNetwork
from tether.networks.denoiser import Denoiser, sinusoidal_embedding
from tether.networks.layers import MLP, Linear, mish, orthogonal, torch_uniform
from tether.networks.policies import GaussianActor, ImplicitActor, TanhGaussian

__all__ = [
    "MLP",
    "Denoiser",
    "GaussianActor",
    "ImplicitActor",
    "Linear",
    "QEnsemble",
    "TanhGaussian",
    "ValueNetwork",
    "mish",
    "orthogonal",
    "sinusoidal_embedding",
    "torch_uniform",
]
