"""A formula run on symbols: its expression graph and its adjoint, what kernels and other adjoints are made of."""
