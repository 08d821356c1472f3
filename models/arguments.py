"""Checking arguments that come from files and command lines against the types of a function's defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from bnncc.errors import BadInput


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a number, which True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


KINDS: dict[type, tuple[str, Callable[[object], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", is_whole),
    float: ("a number", is_number),
    str: ("a word", lambda value: isinstance(value, str)),
    tuple: (
        "a list of whole numbers",
        lambda value: isinstance(value, list | tuple) and all(is_whole(item) for item in value),
    ),
    dict: ("a table", lambda value: isinstance(value, Mapping)),
}
"""What a value has to be where the default is of a type, in words, and whether it is."""


def known_arguments(function: Callable[..., object]) -> list[str]:
    """Return the names of a function's arguments; those of a class are its constructor's."""
    parameters = inspect.signature(function).parameters.values()
    # A module without a constructor of its own has nn.Module's *args and **kwargs.
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL
            and parameter.kind is not parameter.VAR_KEYWORD]  # fmt: skip


def check_arguments(
    function: Callable[..., object], arguments: Mapping[str, object], where: str, free: tuple[str, ...] = ()
) -> None:
    """Raise BadInput, beginning with `where`, for an unknown argument or one of another type than the default's.

    Those named in `free` may be of any type.
    """
    parameters, known = inspect.signature(function).parameters, known_arguments(function)
    for name, value in arguments.items():
        if name not in known:
            raise BadInput(f"{where}: takes no {name}; it takes {', '.join(known) or 'nothing'}")
        kind = KINDS.get(type(parameters[name].default))
        if name not in free and kind is not None and not kind[1](value):
            raise BadInput(f"{where}: {name} is {value!r}, not {kind[0]}")
