"""Binary weights: layers of exact ±1 for flips, and layers of latent weights for the straight-through baselines."""

from mcmcopt.binary.convert import binary_layers, latent_layers
from mcmcopt.binary.latent import LatentConv2d, LatentLinear, clip_latents
from mcmcopt.binary.layers import BinaryConv2d, BinaryLinear, check_binary
from mcmcopt.binary.quantizers import XNOR, BinaryConnect, DoReFa, Quantizer
from mcmcopt.binary.straight_through import straight_through

__all__ = [
    "XNOR",
    "BinaryConnect",
    "BinaryConv2d",
    "BinaryLinear",
    "DoReFa",
    "LatentConv2d",
    "LatentLinear",
    "Quantizer",
    "binary_layers",
    "check_binary",
    "clip_latents",
    "latent_layers",
    "straight_through",
]
