"""The operations that take the time, one function each, in plain PyTorch: the reference for every backend."""
