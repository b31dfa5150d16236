"""The engine under its former name, for environments whose entry points are older."""

from sbp_keras.engine import make_engine as make_backend

__all__ = ["make_backend"]
