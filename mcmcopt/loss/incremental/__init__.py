"""Incremental evaluation: the loss of a proposal at the price of what it changes."""

from mcmcopt.loss.incremental.engine import IncrementalLoss as IncrementalLoss
