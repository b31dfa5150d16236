"""What ``--backend`` may say, and what a process needs for it.

The registry's backends go by their names. Keras takes its own backend once per process, so ``keras-tensorflow``,
``keras-jax`` and ``keras-torch`` each name the registry's ``keras`` together with that setting.
"""

from __future__ import annotations

from sbp_core import registry

KERAS_BACKENDS = ("tensorflow", "jax", "torch")
_KERAS = "keras"


def default_names() -> list[str]:
    """Return every registered backend, Keras once for each framework under it."""
    named: list[str] = []
    for name in registry.names():
        named += [f"{_KERAS}-{framework}" for framework in KERAS_BACKENDS] if name == _KERAS else [name]
    return named


def registry_name(name: str) -> str:
    """Return the name by which the registry knows ``name``.

    Example:
        >>> registry_name("keras-jax"), registry_name("torch"), registry_name("package.module:factory")
        ('keras', 'torch', 'package.module:factory')
    """
    return _KERAS if _framework_under_keras(name) else name


def environment(name: str) -> dict[str, str]:
    """Return the environment variables that ``name`` stands for.

    Example:
        >>> environment("keras-jax"), environment("jax")
        ({'KERAS_BACKEND': 'jax'}, {})
    """
    framework = _framework_under_keras(name)
    return {"KERAS_BACKEND": framework} if framework else {}


def _framework_under_keras(name: str) -> str | None:
    prefix, _, framework = name.partition("-")
    return framework if prefix == _KERAS and framework in KERAS_BACKENDS else None
