"""Source of a neuron's loops over time, forward and adjoint, derived from its spec: what fused kernels are made of."""
