"""Where pytest comes to the suite: :mod:`sbp_conformance.plugin` collects :mod:`sbp_conformance.items` in its place.

Nothing else is here, so that a project whose ``python_files`` and ``python_functions`` match everything collects
nothing twice.
"""
