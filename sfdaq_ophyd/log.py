"""Logging for users, and failures on one screen. Nothing is configured at import."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from .errors import ConfigError, RequestError, SfdaqError

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"

SCREEN = 12
"""Most lines that are shown where a command fails: its own words, warnings, and the failure."""

LINES, LEAST = 8, 4
"""Most lines of a failure on the screen, and how many it has where others have taken theirs."""

LONGEST = 700
"""Most characters of a sentence on the screen; the middle of a longer one is left out."""

WARNINGS, PER = 2, 60.0
"""Most warnings on the screen within so many s; the others are in the log. A command that ends shows one."""

MAX_LOG = 10 * 2**20
"""Bytes of the log at which the next start moves it aside."""

logger = logging.getLogger(__name__)
_handler: logging.Handler | None = None
_log: logging.FileHandler | None = None
_n_shown = 0


def config_sfdaq_logging(level: int | str = "INFO", file: str | Path | None = None) -> logging.Handler:
    """Send this package's log records to the terminal or to a file.

    A second call replaces the first.

    Parameters
    ----------
    level : int or str
        DEBUG shows each message on a wire, INFO one line per acquisition.
    file : str or Path, optional
        Append to this file; default is standard error.

    Returns
    -------
    logging.Handler
        The handler now attached to the logger ``sfdaq_ophyd``.
    """
    handler = logging.StreamHandler() if file is None else logging.FileHandler(file)
    handler.setFormatter(logging.Formatter(FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
    _use(handler)
    logging.getLogger("sfdaq_ophyd").setLevel(level)
    return handler


def keep_log(serves: bool = True) -> Path:
    """Send every record of the process to the log; this package's warnings, a line each, to standard error.

    Commands and sessions call this: what they show of a failure ends with this path. A second call changes
    nothing.

    Parameters
    ----------
    serves : bool
        This process goes on until somebody ends it, and shows warnings again after a while. One that ends by
        itself has a single screen.

    Returns
    -------
    Path
        The environment variable ``SFDAQ_LOG``, or ``sfdaq/sfdaq.log`` in the user's state folder
        (``~/.local/state``), or in a temporary folder where that cannot be written.
    """
    global _log
    if _log is None:
        _log = logging.FileHandler(_writable(), encoding="utf-8", errors="backslashreplace")
        _log.setFormatter(logging.Formatter(f"%(process)d {FORMAT}", datefmt="%Y-%m-%d %H:%M:%S"))
        logging.getLogger().addHandler(_log)
        logging.captureWarnings(True)
        threading.excepthook, sys.unraisablehook = _log_thread, _log_unraisable
        setattr(SfdaqError, "_render_traceback_", _rendered)  # noqa: B010 (IPython asks for this method)
        _use(_Screen(WARNINGS, PER) if serves else _Screen(1, math.inf))
        logging.getLogger("sfdaq_ophyd").setLevel("INFO")
    return Path(_log.baseFilename)


def _log_unraisable(unraisable) -> None:
    """Keep off the screen what a destructor raised, such as a Ctrl-C that came while it ran."""
    error = unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback
    logging.getLogger(__name__).debug("%s: %r", unraisable.err_msg, unraisable.object, exc_info=error)


def new_screen() -> None:
    """Begin a command: nothing of it is shown yet."""
    global _n_shown
    _n_shown = 0
    if isinstance(_handler, _Screen):
        _handler.clear()


def count_lines(text: str) -> None:
    """Take note that a command has shown this, so that a failure fits on the same screen."""
    global _n_shown
    _n_shown += _height(text)


def room() -> int:
    """Return how many lines of the screen are left."""
    warnings = _handler.height if isinstance(_handler, _Screen) else 0
    return SCREEN - _n_shown - warnings


def in_lines(text: str, most: int, indent: str = "") -> list[str]:
    """Break a text for a terminal, elsewhere leave it in one line; no more than `most` lines.

    What is left out of a text that is too long is its middle, of a single line its end.
    """
    text = " ".join(text.split())
    width = _width()
    longest = LONGEST if most < 2 else min(LONGEST, int(0.9 * most * (width - len(indent))))
    text = text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent="  ", max_lines=most, placeholder=" ..."
    )


def _width() -> int:
    return max(shutil.get_terminal_size().columns, 40) if sys.stderr.isatty() else 2000


def _height(text: str) -> int:
    """Return how many lines a text has on the screen."""
    return sum(max(1, math.ceil(len(line) / _width())) for line in text.splitlines())


@contextlib.contextmanager
def attempt(what: str) -> Iterator[None]:
    """Have a failure within say what was attempted: ``with attempt("scanning motor"): ...``."""
    try:
        yield
    except Exception as exc:
        exc.add_note(f"while {what}")
        raise


def failure(exc: BaseException, what: str) -> str:
    """Put an exception, and its traceback, in the log; return what a person sees of it.

    Parameters
    ----------
    exc : exception
        Of a chain, the first that was raised on purpose tells the story.
    what : str
        What failed, e.g. the command.

    Returns
    -------
    str
        `LINES` lines at the most, fewer where the screen has others: what was attempted, what happened with
        the last state seen, what to do, and where the traceback is. Mistakes in arguments and files need one
        sentence only.
    """
    most = max(LEAST, min(LINES, room()))
    chain = list(_chain(exc))
    told = next((each for each in chain if isinstance(each, SfdaqError)), chain[-1])
    notes = [note for each in chain for note in getattr(each, "__notes__", ())]
    attempts = [note for note in notes if note.startswith("while ")]
    if isinstance(told, RequestError | ConfigError) and not attempts:
        lines = f"sfdaq: {told}".splitlines()
        return "\n".join(lines if _height("\n".join(lines)) <= most else _first(lines, most))
    path = keep_log()
    logger.error("%s failed: %s", what, told, exc_info=exc)
    sentence, advice = _sentence(told)
    first, last = f"{what} failed{''.join(f' {each}' for each in attempts[:1])}:", f"  Traceback: {path}"
    more = "; ".join(note for note in notes if note not in attempts)
    spare = most - 1 - _height(last) - bool(advice)
    happened = in_lines(sentence, max(1, min(LINES - 4, spare - bool(more))), "  ")
    spare -= len(happened)
    noted = in_lines(more, 1, "  ") if spare > 0 else []
    spare -= len(noted)
    to_do = in_lines(f"What to do: {advice}" if advice else "", 2 if spare > 0 else 1, "  ")
    return "\n".join([*in_lines(first, 1), *happened, *noted, *to_do, last])


def _first(lines: list[str], most: int) -> list[str]:
    """Return the first of many lines, and how many more there are, in `most` lines of the screen."""
    shown = in_lines(lines[0], max(1, most - 1)) if _height(lines[0]) >= most else lines[:1]
    n = 1
    while n < len(lines) and _height("\n".join([*shown, lines[n]])) < most:
        shown.append(lines[n])
        n += 1
    return [*shown, f"and {len(lines) - n} more"] if n < len(lines) else shown


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def advice_of(exc: BaseException) -> str:
    """Return what a person does about an exception; empty where its sentence says all."""
    if isinstance(exc, SfdaqError):
        return getattr(exc, "hint", "") or exc.advice
    if isinstance(exc, OSError) and exc.filename is not None:
        return "Look at this path, the rights to it and its disk"
    return "This was not foreseen; the traceback tells where it comes from"


def _sentence(exc: BaseException) -> tuple[str, str]:
    """Return what happened, and what a person does."""
    text, advice = str(exc), advice_of(exc)
    if isinstance(exc, SfdaqError):
        return text.removesuffix(advice).rstrip(), advice
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(exc).__name__}: {text}{where}", advice


def _use(handler: logging.Handler) -> None:
    """Make this the one handler of the package's logger."""
    global _handler
    package = logging.getLogger("sfdaq_ophyd")
    if _handler is not None:
        package.removeHandler(_handler)
        _handler.close()
    _handler = handler
    package.addHandler(handler)


def _writable() -> Path:
    """Return a file that can be appended to."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state")
    for place in (os.environ.get("SFDAQ_LOG"), Path(state) / "sfdaq" / "sfdaq.log"):
        if place:
            with contextlib.suppress(OSError, RuntimeError):  # a user without a home, or that is none
                path = Path(place).expanduser().absolute()
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_file() and path.stat().st_size > MAX_LOG:
                    path.replace(path.with_name(f"{path.name}.1"))
                open(path, "a").close()
                return path
    return Path(tempfile.mkdtemp(prefix="sfdaq-")) / "sfdaq.log"


def _rendered(exc: SfdaqError) -> list[str]:
    return failure(exc, "this").splitlines()


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else "a thread"
        logger.warning(
            "thread %s ended: %s: %s",
            name,
            args.exc_type.__name__,
            args.exc_value,
            exc_info=args.exc_value,
        )


class _Screen(logging.StreamHandler):
    """Warnings of this package, one line each and a few at a time; the log has them whole."""

    def __init__(self, most: int, per: float):
        super().__init__()
        self.setLevel(logging.WARNING)
        self._most, self._per = most, per
        self._shown: list[tuple[float, int]] = []  # when, and of how many lines

    def clear(self) -> None:
        """Begin with an empty screen."""
        self._shown = []

    @property
    def height(self) -> int:
        """How many lines of the screen have warnings."""
        return sum(lines for at, lines in self._shown if time.monotonic() - at < self._per)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning, and in place of the first too many where the others are."""
        now = time.monotonic()
        self._shown = [each for each in self._shown if now - each[0] < self._per]
        if record.name != __name__ or record.levelno < logging.ERROR:  # what `failure` logs, it also returns
            if len(self._shown) <= self._most:
                super().emit(record)
                self._shown.append((now, _height(self.format(record))))

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        if len(self._shown) == self._most:
            return f"more warnings are in {keep_log()}"
        return in_lines(f"{record.levelname.lower()}: {record.getMessage()}", 1)[0]
