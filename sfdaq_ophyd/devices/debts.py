"""What could not be put back on the hardware: kept on disk, by address, until it is paid.

A device that changes hardware for a while owes it what was there before. It notes that, with both values, in
a file before it changes anything, and forgets it once all is put back. If that cannot be done (the network is
away), or the process is killed before, the next stage, or ``initialize``, pays the debt. A value that
somebody changed meanwhile is left alone: the debt is forgotten. Where we reset the hardware ourselves, no
other value tells of somebody: that is noted with the debt. What a process that lives has staged is nobody
else's to put back.

The files lie in one folder per session (`keep_in`), without a session in the folder ``debts`` of the device's
own directory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import ServiceUnreachable, StorageError
from ..files.storage import write_whole
from ..wire.json_text import plain_array

logger = logging.getLogger(__name__)

MAX_BYTES = 2**20
"""A longer file is none of ours."""

BY_STAGE = "the next stage does that, or a person by hand"

_folder: Path | None = None
_lock = threading.Lock()


def keep_in(folder: str | Path | None) -> None:
    """Say where the debts of all devices are kept; None: each device's in its own directory."""
    global _folder
    _folder = None if folder is None else Path(folder)


@dataclass(frozen=True)
class Debt:
    """One value that is to be put back.

    Attributes
    ----------
    device : str
        Name of the device that owes it.
    what : str
        Whose value: a path or a name that the device understands, and a person too.
    left : object
        The value that was left there, fit for JSON.
    back : object
        The value that was there before.
    since : str
        When, local time.
    reason : str
        Why it could not be put back.
    holder : str
        The process that has the device staged, and puts it back if it lives to; empty if none will.
    advice : str
        Who puts it back, and how.
    is_unsure : bool
        Whether another value may be there though nobody set it: for all that is known, the hardware was reset
        since, or did not take the one that is said to be left.
    """

    device: str
    what: str
    left: Any
    back: Any
    since: str
    reason: str
    holder: str = ""
    advice: str = BY_STAGE
    is_unsure: bool = False

    @property
    def held(self) -> bool:
        """Whether the device is staged still; of another host's process nobody knows, and it counts as so."""
        host, _, process = self.holder.partition(" ")
        here = host == socket.gethostname()
        return bool(host) and (not here or _process(process.partition(" ")[0]) == self.holder)

    def __str__(self) -> str:
        return (
            f"{self.device}: {self.what} was left at {self.left!r}, not put back to {self.back!r}, on "
            f"{self.since} ({self.reason}); {self.advice}"
        )


class Debts:
    """What is owed to one address. Safe from several threads, and processes that take turns.

    Parameters
    ----------
    device : str
        Name of the device, for messages.
    address : str
        Of the hardware; without passwords.
    directory : Path
        Of the device.
    advice : str
        Who puts back what is owed, and how.
    """

    def __init__(self, device: str, address: str, directory: str | Path, *, advice: str = BY_STAGE):
        self._device, self.address, self._directory = device, address, Path(directory)
        self._advice = advice
        self._unsaved: dict[str, Debt] = {}  # what no disk took
        self._unreadable = False  # what the file says, when it was read last
        self._closed: OSError | None = None  # why it could not be opened then, though it may be whole

    @property
    def path(self) -> Path:
        """The file, whether it is there or not."""
        slug = re.sub(r"\W+", "_", self.address).strip("_")[-60:]
        digest = hashlib.sha256(self.address.encode()).hexdigest()[:8]
        return (_folder or self._directory / "debts") / f"{slug}_{digest}.json"

    def owed(self, *, surely: bool = False) -> dict[str, Debt]:
        """Return what is owed, in the order in which it is to be put back; nothing that is staged.

        Parameters
        ----------
        surely : bool
            Raise if the file, which may tell of more, cannot be read now; else that is only logged.

        Returns
        -------
        dict of str to Debt
            By the name of the value.

        Raises
        ------
        StorageError
            The file cannot be read, and `surely` was asked for.
        """
        with _lock:
            noted = self._read()
            if surely and self._closed is not None:
                raise _not_read(self.path, self._closed)
        return {what: debt for what, debt in noted.items() if not debt.held}

    def hold(self, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """Note what is about to be changed, should this process not live to put it back; see `release`.

        Parameters
        ----------
        changes : mapping
            The value that is there and the one that will be, by name, in the order in which they are set.
        """
        holder = _process(os.getpid())
        if not holder:  # nobody could tell whether we live
            return
        with _lock:
            noted = self._read()
            new = {}
            for what, (back, left) in reversed(tuple(changes.items())):
                before = noted.get(what)
                if before is None or (before.left, before.holder, before.is_unsure) != (left, holder, False):
                    back = back if before is None else before.back
                    why = "the session that had it staged ended"
                    new[what] = Debt(self._device, what, left, back, _now(), why, holder, self._advice)
            if new:
                self._write(new | {what: debt for what, debt in noted.items() if what not in new})

    def release(self) -> None:
        """Forget what was held here: it is put back, or owed."""
        mine = self._device, _process(os.getpid())
        self._keep(lambda debt: not debt.holder or (debt.device, debt.holder) != mine)

    def owe(self, what: str, *, left: Any, back: Any, reason: object, unsure: bool = False) -> None:
        """Note a debt, on disk and in the log; one noted before keeps the value to put back.

        Parameters
        ----------
        what : str
            Whose value.
        left, back : object
            The value left there, and that to put back; fit for JSON.
        reason : object
            Why it could not be put back.
        unsure : bool
            Setting it to `left` failed: what was there before may be there still.
        """
        with _lock:
            owed = self._read()
            debt = Debt(
                self._device, what, left, back, _now(), str(reason), advice=self._advice, is_unsure=unsure
            )
            if (before := owed.get(what)) is not None:
                debt = replace(debt, back=before.back, is_unsure=unsure or before.is_unsure)
            owed[what] = debt
            self._write(owed)
        logger.error("not left as found: %s", debt)

    @contextmanager
    def reset(self) -> Iterator[None]:
        """Note, before the hardware is reset, that what was left there is gone, whoever left it.

        It stays noted until that is put back, or set and held again; unless the hardware was not reached.
        """
        with _lock:
            before = self._read()
        self._mark(dict.fromkeys(before, True))
        try:
            yield
        except ServiceUnreachable:  # nothing was sent
            self._mark({what: debt.is_unsure for what, debt in before.items()})
            raise

    def _mark(self, is_unsure: Mapping[str, bool]) -> None:
        with _lock:
            noted = self._read()
            now = {
                what: replace(debt, is_unsure=is_unsure.get(what, debt.is_unsure))
                for what, debt in noted.items()
            }
            if now != noted:
                self._write(now)

    def forget(self, *names: str) -> None:
        """Owe these no more."""
        self._keep(lambda debt: debt.what not in names)

    def _keep(self, stays: Callable[[Debt], bool]) -> None:
        with _lock:
            noted = self._read()
            left = {what: debt for what, debt in noted.items() if stays(debt)}
            if left != noted:
                self._write(left)

    def pay(
        self,
        read: Callable[[str], Any],
        write: Callable[[dict[str, Any]], object],
        *,
        only: str = "",
        same: Callable[[Any, Any], bool] = operator.eq,
        owed: Mapping[str, Debt] | None = None,
    ) -> None:
        """Put back what is owed.

        Parameters
        ----------
        read, write : callable
            Of the hardware: the value of a name, None where there is no such one; what sets values, by name,
            in their order. If one raises, all is still owed.
        only : str
            Pay just those whose name begins so.
        same : callable
            Whether two values are.
        owed : mapping of str to Debt, optional
            What is owed, as `owed` said before; default: what it says now, surely.

        Raises
        ------
        StorageError
            Without `owed`: the file cannot be read now; the hardware was not asked for anything.
        """
        if owed is None:
            owed = self.owed(surely=True)
        owed = {what: debt for what, debt in owed.items() if what.startswith(only)}
        now = {what: read(what) for what in owed}
        due = {
            what: debt.back
            for what, debt in owed.items()
            if not same(now[what], debt.back)
            and ((debt.is_unsure and now[what] is not None) or same(now[what], debt.left))
        }
        if due:
            write(due)
        for what, debt in owed.items():
            if what in due:
                logger.warning(
                    "%s: put %s back to %r, owed since %s", self._device, what, debt.back, debt.since
                )
            elif not same(now[what], debt.back):
                logger.warning(
                    "%s: %s is %r: somebody set it since, so it stays", self._device, what, now[what]
                )
        self.forget(*owed)

    def _read(self) -> dict[str, Debt]:
        self._closed, found = None, None
        try:
            found = _load(self.path)
            self._unreadable = found is None
        except OSError as exc:
            self._closed, self._unreadable = exc, False
            logger.error("%s: debts could not be read from %s: %s", self._device, self.path, exc)
        address, owed = found or ("", {})
        noted = owed if address == self.address else {}
        unsaved = {
            what: replace(debt, back=noted[what].back) if what in noted else debt
            for what, debt in self._unsaved.items()
        }
        return noted | unsaved

    def _write(self, owed: dict[str, Debt]) -> None:
        path, self._unsaved = self.path, {}
        try:
            if self._closed is not None:  # what it says would be lost
                raise self._closed
            if self._unreadable:
                _set_aside(path)
            if not owed:
                path.unlink(missing_ok=True)
                return
            text = json.dumps(
                {"address": self.address, "owed": [asdict(debt) for debt in owed.values()]},
                indent=1,
                default=_plain,
            )
            write_whole(path, text)
        except (OSError, TypeError, ValueError) as exc:
            self._unsaved = owed
            logger.error("%s: debts could not be kept in %s: %s", self._device, path, exc)


def all_debts(folder: str | Path) -> Iterator[tuple[str, Debt]]:
    """Yield address and debt of everything owed, by the files of a folder; nothing that is staged.

    StorageError, after all others, of a file that cannot be read now.
    """
    closed, names = None, []
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except (FileNotFoundError, NotADirectoryError):  # nothing was ever owed
        pass
    except OSError as exc:
        closed = _not_read(Path(folder), exc)
    for path in (Path(folder, name) for name in names):
        with _lock:
            try:
                address, owed = _load(path) or ("", {})
            except OSError as exc:
                closed = closed or _not_read(path, exc)
                continue
        yield from ((address, debt) for debt in owed.values() if not debt.held)
    if closed is not None:
        raise closed


def _not_read(path: Path, exc: OSError) -> StorageError:
    hint = (
        "It may tell of values that are to be put back on the hardware: make it readable, or put them back "
        "by hand and move it away"
    )
    reason = exc.strerror or str(exc)
    return StorageError(path, what="reading the debts in", reason=reason, hint=hint, number=exc.errno)


def _plain(value: object) -> object:
    return plain_array(value, f"{value!r} of type {type(value).__name__} is not fit for JSON")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _process(pid: int | str) -> str:
    """Name a process as no later one will be named; empty if it has ended, or the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if status[0] in "ZX" else f"{socket.gethostname()} {pid} {status[19]}"


def _set_aside(path: Path) -> None:
    """Give a file that could not be read another name, for a person to look into: it may tell of debts."""
    aside = path.with_name(f"{path.name}.unreadable-{datetime.now():%Y%m%d_%H%M%S_%f}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        logger.error("%s could not be read, and is kept as %s: what it owes is not put back", path, aside)


def _load(path: Path) -> tuple[str, dict[str, Debt]] | None:
    """Return the address of a file and what is owed to it; None, and it is told, if it says something else.

    OSError if it is there and cannot be read now.
    """
    try:
        with path.open() as file:
            content = json.loads(file.read(MAX_BYTES))
        names = [field.name for field in fields(Debt)]
        entries = [
            {"advice": BY_STAGE, "is_unsure": False, **entry, "holder": str(entry.get("holder", ""))}
            for entry in content["owed"]
        ]
        owed = [Debt(**{name: entry[name] for name in names}) for entry in entries]
        return str(content["address"]), {str(debt.what): debt for debt in owed}
    except (FileNotFoundError, NotADirectoryError):
        return "", {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        logger.error("%s: not a file of debts: %r", path, exc)
        return None
