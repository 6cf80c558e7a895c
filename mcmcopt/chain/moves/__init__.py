"""Moves: how a proposal is drawn, and the log-ratio of the probabilities of drawing it backwards and forwards."""

from mcmcopt.chain.moves.base import Edits, Move
from mcmcopt.chain.moves.random_walk import RandomWalk
from mcmcopt.chain.moves.sign_flip import SignFlip
from mcmcopt.chain.moves.trans_dimensional import BirthDeath, Swap, Toggle

__all__ = ["BirthDeath", "Edits", "Move", "RandomWalk", "SignFlip", "Swap", "Toggle"]
