"""CPU kernels over tiles of 64 samples, each with a reference of the same name in torch."""
