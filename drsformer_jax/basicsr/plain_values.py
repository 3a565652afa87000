"""Plain Python values as JSON and back, nothing lost: tuples, and keys that are not strings."""

from __future__ import annotations

from typing import Any

from drsformer_jax.errors import UserError

# Marks of what JSON does not have; floats it keeps to the bit.
_TUPLE, _ITEMS = "__tuple__", "__items__"


def to_json(value: Any, source: str) -> Any:
    """The JSON form of numbers, strings, None and nested lists, tuples and dictionaries.

    Raises:
      UserError: there is something else among them, or they are nested without end.
    """
    try:
        return _encode(value, source)
    except RecursionError as error:
        raise UserError(f"{source} is nested too deeply") from error


def _encode(value: Any, place: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        items = {key: _encode(item, f"{place}.{key}") for key, item in value.items()}
        if all(type(key) is str for key in items) and not {_TUPLE, _ITEMS} & items.keys():
            return items
        return {_ITEMS: [[_encode(key, place), item] for key, item in items.items()]}
    if isinstance(value, list | tuple):
        encoded = [_encode(item, f"{place}[{i}]") for i, item in enumerate(value)]
        return {_TUPLE: encoded} if isinstance(value, tuple) else encoded
    raise UserError(f"{place} is a {type(value).__name__}, where a plain value was expected")


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _TUPLE in value:
        return tuple(from_json(item) for item in value[_TUPLE])
    if _ITEMS in value:
        return {from_json(key): from_json(item) for key, item in value[_ITEMS]}
    return {key: from_json(item) for key, item in value.items()}
