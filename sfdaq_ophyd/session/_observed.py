"""Dicts and lists that store what is done to them, at any depth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol


class Root(Protocol):
    """Who stores."""

    def change_at(self, path: tuple, operate: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Call `operate` with the plain dict or list at `path`; return its result, and that dict or list."""


def observed(value: Any, root: Root, path: tuple) -> Any:
    """Return a dict or list that stores what is done to it and to those in it; any other value as it is."""
    if isinstance(value, dict):
        return ObservedDict(value, root, path)
    if isinstance(value, list):
        return ObservedList(value, root, path)
    return value


def _storing(base: type, name: str) -> Callable:
    """Return method `name` of `base`, done to what is stored, and then shown here."""
    method = getattr(base, name)

    @functools.wraps(method)
    def change(self, *args: Any, **kwargs: Any) -> Any:
        args = tuple(list(each) if isinstance(each, Iterator) else each for each in args)
        result, now = self._root.change_at(self._path, lambda plain: method(plain, *args, **kwargs))
        self._fill(now)
        if name.startswith("__i"):
            return self
        return self[args[0]] if name == "setdefault" else result

    return change


class ObservedDict(dict):
    """A dict of metadata; see `observed`."""

    def __init__(self, plain: dict, root: Root, path: tuple):
        super().__init__()
        self._root, self._path = root, path
        self._fill(plain)

    def _fill(self, plain: dict) -> None:
        dict.clear(self)
        dict.update(
            self, {key: observed(value, self._root, (*self._path, key)) for key, value in plain.items()}
        )

    def __deepcopy__(self, memo: dict) -> dict:
        return _plain(self)

    def __reduce__(self) -> tuple:
        return dict, (_plain(self),)


class ObservedList(list):
    """A list of metadata; see `observed`."""

    def __init__(self, plain: list, root: Root, path: tuple):
        super().__init__()
        self._root, self._path = root, path
        self._fill(plain)

    def _fill(self, plain: list) -> None:
        list.__setitem__(
            self,
            slice(None),
            [observed(value, self._root, (*self._path, i)) for i, value in enumerate(plain)],
        )

    def __deepcopy__(self, memo: dict) -> list:
        return _plain(self)

    def __reduce__(self) -> tuple:
        return list, (_plain(self),)


for _name in ("__delitem__", "__ior__", "__setitem__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(ObservedDict, _name, _storing(dict, _name))
for _name in ("__delitem__", "__iadd__", "__imul__", "__setitem__", "append", "clear"):
    setattr(ObservedList, _name, _storing(list, _name))
for _name in ("extend", "insert", "pop", "remove", "reverse", "sort"):
    setattr(ObservedList, _name, _storing(list, _name))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
