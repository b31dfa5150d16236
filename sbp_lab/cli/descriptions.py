"""What a class's docstring says of its fields: the help of an option is written once, there."""

from __future__ import annotations

import inspect
import re


def described(cls: type) -> dict[str, str]:
    """Return the text of each field of the section ``Attributes``.

    Example:
        >>> from sbp_lab.optimizers import SGD
        >>> described(SGD)["momentum"]
        '0 to 1.'
    """
    text = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else []:
        start = re.match(r" {4}(\w+): (.*)", line)
        if start:
            name, found[start[1]] = start[1], start[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
