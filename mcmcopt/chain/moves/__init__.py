"""Moves: how a proposal is drawn, and the log-ratio of the probabilities of drawing it backwards and forwards."""

from mcmcopt.chain.moves.base import AnyMove, Edits, InformedMove, Move
from mcmcopt.chain.moves.informed import InformedBirthDeath, InformedFlip, InformedSwap
from mcmcopt.chain.moves.langevin import Langevin
from mcmcopt.chain.moves.random_walk import RandomWalk
from mcmcopt.chain.moves.sign_flip import SignFlip
from mcmcopt.chain.moves.trans_dimensional import BirthDeath, Swap, Toggle

__all__ = [
    "AnyMove",
    "BirthDeath",
    "Edits",
    "InformedBirthDeath",
    "InformedFlip",
    "InformedMove",
    "InformedSwap",
    "Langevin",
    "Move",
    "RandomWalk",
    "SignFlip",
    "Swap",
    "Toggle",
]
