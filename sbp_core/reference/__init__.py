"""The specs made executable: forward in any array namespace, and the adjoint by hand in float64 NumPy."""
