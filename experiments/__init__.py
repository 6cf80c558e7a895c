"""Experiments: train, prune, report.  `run.py` trains, `plot.py` draws, `choose.py` ranks settings."""
