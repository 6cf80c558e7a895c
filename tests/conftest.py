"""Settings of all tests: one thread, and hypothesis examples that are the same in every run."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, max_examples=60, derandomize=True, database=None)
settings.load_profile("repeatable")
