"""``RE.md`` that survives a restart: a dict kept in one JSON document, in a file or in Redis."""

from __future__ import annotations

import copy
import fcntl
import functools
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Protocol, cast

from ..errors import ConfigError, RequestError, ServiceUnreachable, WireError, require, shown_url
from ..files.storage import make_folder, write_whole, writing
from ..wire.json_text import load_json, plain_array


class Store(Protocol):
    """What keeps the document of the metadata: a file, or Redis."""

    def update(self, change: Callable[[dict], None]) -> dict:
        """Read, change and write as one step, also against other processes; return the result."""


class FileStore:
    """One JSON file, replaced as a whole: a reader, or a crash, finds the old or the new one.

    Parameters
    ----------
    path : str or Path
        Made with its folder at the first change.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def update(self, change: Callable[[dict], None]) -> dict:
        """Change the file under a lock that all processes respect; ConfigError if it is damaged."""
        make_folder(self.path.parent)
        with writing(self.path), open(self.path.with_name(self.path.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = self._read()
            content = copy.deepcopy(before)
            change(content)
            if json.dumps(content) != json.dumps(before):  # 1, 1.0 and True are equal
                write_whole(self.path, json.dumps(content, indent=1))
        return content

    def _read(self) -> dict:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        return _document(data, str(self.path))


def _document(data: bytes | str, where: str) -> dict:
    """Return what a store holds; ConfigError if that is no JSON object."""
    try:
        content = load_json(data)
    except WireError as exc:
        raise ConfigError(f"{where}: not JSON ({exc.__cause__ or exc}). {_REPAIR}") from exc
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: not a JSON object. {_REPAIR}")
    return content


_REPAIR = "Mend it, or move it away and set RE.md['scan_id'] to the last scan_id in the catalog"


class RedisStore:
    """One string in Redis.

    Parameters
    ----------
    url : str
        ``redis://host:6379/0``.
    key : str
    """

    def __init__(self, url: str, key: str):
        require("redis", "metadata in Redis", "redis")
        self._url, self._key = url, key
        from ..clients.redis_client import redis_client  # with all clients: only where it is needed

        self._client = redis_client(url, answer=5, connect=2)

    def update(self, change: Callable[[dict], None]) -> dict:
        """Change the document in a transaction; ServiceUnreachable without Redis, ConfigError if damaged."""
        import redis

        content: dict = {}

        def transaction(pipe) -> None:
            nonlocal content
            content = _document(pipe.get(self._key) or b"{}", f"{shown_url(self._url)}: {self._key}")
            change(content)
            pipe.multi()
            pipe.set(self._key, json.dumps(content))

        try:
            self._client.transaction(transaction, self._key)
        except redis.RedisError as exc:
            raise ServiceUnreachable("metadata", url=self._url, reason=exc) from exc
        return content


class PersistentMetadata(MutableMapping):
    """A dict for ``RunEngine(md=...)``; every change is written before it returns, nested ones too.

    Values are what JSON can hold; numpy scalars and arrays become numbers and lists. Dicts and lists that are
    handed out store what is done to them: ``md["sample"]["name"] = "b"``. A change is made to what is in the
    store now, where another session may have changed the rest. The store is read at the first use.

    Parameters
    ----------
    store : Store

    Examples
    --------
    ::

        md = PersistentMetadata(FileStore("metadata.json"))
        RE = RunEngine(md, scan_id_source=next_scan_id)
    """

    def __init__(self, store: Store):
        self._store = store
        self._lock = threading.RLock()
        self._known: dict | None = None
        self._counted: dict[str, int] = {}

    def _content(self) -> dict:
        with self._lock:
            if self._known is None:
                self._known = self._store.update(lambda content: None)
            return self._known

    def _change(self, change: Callable[[dict], None]) -> dict:
        with self._lock:
            self._known = self._store.update(change)
            return self._known

    def change_at(self, path: tuple, operate: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Do something to a nested dict or list, and store the whole; for what `__getitem__` hands out.

        Parameters
        ----------
        path : tuple of str and int
            Where it is; its first part is our key.
        operate : callable
            Takes the dict or list and changes it in place.

        Returns
        -------
        result, now : object
            What `operate` returned, and the dict or list after it.
        """
        result = None

        def change(content: dict) -> None:
            nonlocal result
            result = operate(_at(content, path))
            content[path[0]] = as_json(path[0], content[path[0]])

        with self._lock:
            return result, _at(self._change(change), path)

    def __getitem__(self, key: str) -> Any:
        return observed(self._content()[key], self, (key,))

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise RequestError("metadata key", key, "a string")
        plain = as_json(key, value)
        if key in self._counted and self._counted.pop(key) == plain:
            return  # the scan_id that `increment` gave: by now another session may be further
        self._change(lambda content: content.__setitem__(key, plain))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, set to `default` if there was none.

        Parameters
        ----------
        key : str
        default : object
            What JSON can hold, None included.

        Returns
        -------
        object
            A dict or a list stores what is done to it.

        Raises
        ------
        RequestError
            `key` is no string, or JSON cannot hold `default`; nothing was stored.
        ConfigError
            What is stored is damaged.
        StorageError, ServiceUnreachable
            The file cannot be written, or Redis cannot be reached.
        """
        if key not in self:
            self[key] = default
        return self[key]

    def __delitem__(self, key: str) -> None:
        if key not in self._content():
            raise KeyError(key)
        self._counted.pop(key, None)
        self._change(lambda content: content.pop(key, None))

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._content()))

    def __len__(self) -> int:
        return len(self._content())

    def __deepcopy__(self, memo: dict) -> dict:
        return copy.deepcopy(self._content(), memo)  # the RunEngine copies it into the start document

    def __repr__(self) -> str:
        return repr(self._content())

    def increment(self, key: str) -> int:
        """Count up a number, also against other processes on the same store; return it.

        Parameters
        ----------
        key : str
            Counts from 0 if it is not there.

        Returns
        -------
        int
            The number after it, which nobody else gets.

        Raises
        ------
        ConfigError
            What is stored is no number, or is damaged altogether.
        StorageError, ServiceUnreachable
            The file cannot be written, or Redis cannot be reached.
        """

        def count_up(content: dict) -> None:
            try:
                content[key] = int(content.get(key, 0)) + 1
            except (TypeError, ValueError, OverflowError) as exc:
                stored = f"metadata {key}: {content[key]!r:.80}, expected a whole number"
                raise ConfigError(f"{stored}. Set RE.md[{key!r}] to the last one in the catalog") from exc

        with self._lock:
            now = self._change(count_up)
            self._counted[key] = now[key]
            return now[key]


def next_scan_id(md: PersistentMetadata) -> int:
    """Return the next scan_id; for ``RunEngine(scan_id_source=...)``. No two sessions get the same.

    Parameters
    ----------
    md : PersistentMetadata
        That of the RunEngine, which calls this with it as a run opens.

    Returns
    -------
    int
        The last one in the store plus 1.

    Raises
    ------
    ConfigError, StorageError, ServiceUnreachable
        As of `PersistentMetadata.increment`.
    """
    return md.increment("scan_id")


def as_json(key: str, value: Any) -> Any:
    """Return a value as JSON gives it back.

    Parameters
    ----------
    key : str
        Where it is to go, for the message.
    value : object
        Numpy scalars and arrays become numbers and lists, and paths texts.

    Raises
    ------
    RequestError
        JSON cannot hold it: it is NaN or infinite, of another type, or nested in itself.
    """
    try:
        document = load_json(json.dumps({key: value}, default=_plain, allow_nan=False))
        return cast(dict, document)[key]
    except (TypeError, ValueError, RecursionError) as exc:
        raise RequestError(f"metadata {key}", value, f"something JSON can hold ({exc})") from exc


def _at(content: Any, path: tuple) -> Any:
    try:
        for step in path:
            content = content[step]
    except (KeyError, IndexError, TypeError):
        where = "".join(f"[{step!r}]" for step in path)
        raise RequestError(f"metadata {where}", None, "to be still there; somebody took it away") from None
    return content


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return plain_array(value, f"{type(value).__name__} is not JSON")


def observed(value: Any, root: PersistentMetadata, path: tuple) -> Any:
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


class Observed(ABC):
    """A dict or list of metadata; see `observed`. Copied and pickled it is a plain one."""

    def __init__(self, plain: Any, root: PersistentMetadata, path: tuple):
        super().__init__()
        self._root, self._path = root, path
        self._fill(plain)

    @abstractmethod
    def _fill(self, plain: Any) -> None:
        """Show what is stored now."""

    def __deepcopy__(self, memo: dict) -> Any:
        return json.loads(json.dumps(self))

    def __reduce__(self) -> tuple:
        return json.loads, (json.dumps(self),)


class ObservedDict(Observed, dict):
    """A dict of metadata."""

    def _fill(self, plain: dict) -> None:
        dict.clear(self)
        dict.update(
            self, {key: observed(each, self._root, (*self._path, key)) for key, each in plain.items()}
        )


class ObservedList(Observed, list):
    """A list of metadata."""

    def _fill(self, plain: list) -> None:
        all_of_it = [observed(each, self._root, (*self._path, i)) for i, each in enumerate(plain)]
        list.__setitem__(self, slice(None), all_of_it)


_CHANGES = {
    (ObservedDict, dict): "__delitem__ __ior__ __setitem__ clear pop popitem setdefault update",
    (ObservedList, list): "__delitem__ __iadd__ __imul__ __setitem__ append clear extend insert pop remove"
    " reverse sort",
}
for (_observed, _base), _names in _CHANGES.items():
    for _name in _names.split():
        setattr(_observed, _name, _storing(_base, _name))
