"""mcmcopt: neural networks made light by accept/reject training under sparsity priors.

Names are resolved when first used, so that importing one part of the package does not load the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcmcopt.binary.layers import BinaryConv2d as BinaryConv2d
    from mcmcopt.binary.layers import BinaryLinear as BinaryLinear
    from mcmcopt.chain.inclusion import AlquierLounici as AlquierLounici
    from mcmcopt.chain.inclusion import Bernoulli as Bernoulli
    from mcmcopt.chain.inclusion import BetaBinomial as BetaBinomial
    from mcmcopt.chain.inclusion import Complexity as Complexity
    from mcmcopt.chain.inclusion import RigolletTsybakov as RigolletTsybakov
    from mcmcopt.chain.inclusion import SoftCap as SoftCap
    from mcmcopt.chain.moves import BirthDeath as BirthDeath
    from mcmcopt.chain.moves import InformedBirthDeath as InformedBirthDeath
    from mcmcopt.chain.moves import InformedFlip as InformedFlip
    from mcmcopt.chain.moves import InformedSwap as InformedSwap
    from mcmcopt.chain.moves import Langevin as Langevin
    from mcmcopt.chain.moves import RandomWalk as RandomWalk
    from mcmcopt.chain.moves import SignFlip as SignFlip
    from mcmcopt.chain.moves import Swap as Swap
    from mcmcopt.chain.moves import Toggle as Toggle
    from mcmcopt.chain.priors import SpikeSlab as SpikeSlab
    from mcmcopt.chain.schedule import CubicDecay as CubicDecay
    from mcmcopt.chain.schedule import GeometricAnnealing as GeometricAnnealing
    from mcmcopt.chain.schedule import Piecewise as Piecewise
    from mcmcopt.chain.slabs import DalalyanTsybakov as DalalyanTsybakov
    from mcmcopt.chain.slabs import Gaussian as Gaussian
    from mcmcopt.chain.slabs import Laplace as Laplace
    from mcmcopt.chain.slabs import StudentT as StudentT
    from mcmcopt.loss.incremental import IncrementalLoss as IncrementalLoss
    from mcmcopt.loss.objective import GradientObjective as GradientObjective
    from mcmcopt.loss.objective import Objective as Objective
    from mcmcopt.loss.objective import SpeculativeObjective as SpeculativeObjective
    from mcmcopt.optim.bop import Bop as Bop
    from mcmcopt.optim.greedy_mcmc import GreedyMCMC as GreedyMCMC
    from mcmcopt.optim.hybrid import Hybrid as Hybrid
    from mcmcopt.optim.kl_mirror_descent import KLMirrorDescent as KLMirrorDescent
    from mcmcopt.optim.mirror_descent import MirrorDescent as MirrorDescent
    from mcmcopt.optim.potentials import ElasticNet as ElasticNet
    from mcmcopt.optim.potentials import Euclidean as Euclidean
    from mcmcopt.optim.potentials import Hypentropy as Hypentropy
    from mcmcopt.optim.potentials import NegativeEntropy as NegativeEntropy
    from mcmcopt.optim.potentials import PNorm as PNorm

_HOMES = {
    "mcmcopt.binary.layers": ("BinaryConv2d", "BinaryLinear"),
    "mcmcopt.chain.inclusion": (
        "AlquierLounici",
        "Bernoulli",
        "BetaBinomial",
        "Complexity",
        "RigolletTsybakov",
        "SoftCap",
    ),
    "mcmcopt.chain.moves": (
        "BirthDeath",
        "InformedBirthDeath",
        "InformedFlip",
        "InformedSwap",
        "Langevin",
        "RandomWalk",
        "SignFlip",
        "Swap",
        "Toggle",
    ),
    "mcmcopt.chain.priors": ("SpikeSlab",),
    "mcmcopt.chain.schedule": ("CubicDecay", "GeometricAnnealing", "Piecewise"),
    "mcmcopt.chain.slabs": ("DalalyanTsybakov", "Gaussian", "Laplace", "StudentT"),
    "mcmcopt.loss.incremental": ("IncrementalLoss",),
    "mcmcopt.loss.objective": ("GradientObjective", "Objective", "SpeculativeObjective"),
    "mcmcopt.optim.bop": ("Bop",),
    "mcmcopt.optim.greedy_mcmc": ("GreedyMCMC",),
    "mcmcopt.optim.hybrid": ("Hybrid",),
    "mcmcopt.optim.kl_mirror_descent": ("KLMirrorDescent",),
    "mcmcopt.optim.mirror_descent": ("MirrorDescent",),
    "mcmcopt.optim.potentials": ("ElasticNet", "Euclidean", "Hypentropy", "NegativeEntropy", "PNorm"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mcmcopt' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
