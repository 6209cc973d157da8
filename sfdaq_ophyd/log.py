"""Logging for users, and failures on one screen. Nothing is configured at import."""

from __future__ import annotations

import contextlib
import logging
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

LINES = 8
"""Most lines of a failure on the screen; with warnings and a command's own words it is one screen of 12."""

LONGEST = 700
"""Most characters of a sentence on the screen; the middle of a longer one is left out."""

WARNINGS, PER = 2, 60.0
"""Most warnings on the screen within so many s; the others are in the log."""

MAX_LOG = 10 * 2**20
"""Bytes of the log at which the next start moves it aside."""

logger = logging.getLogger(__name__)
_handler: logging.Handler | None = None
_log: logging.FileHandler | None = None


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


def keep_log() -> Path:
    """Send every record of the process to the log; this package's warnings, a line each, to standard error.

    Commands and sessions call this: what they show of a failure ends with this path. A second call changes
    nothing.

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
        _use(_Screen())
        logging.getLogger("sfdaq_ophyd").setLevel("INFO")
    return Path(_log.baseFilename)


def _log_unraisable(unraisable) -> None:
    """Keep off the screen what a destructor raised, such as a Ctrl-C that came while it ran."""
    error = unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback
    logging.getLogger(__name__).debug("%s: %r", unraisable.err_msg, unraisable.object, exc_info=error)


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
        `LINES` lines at the most: what was attempted, what happened with the last state seen, what to do, and
        where the traceback is. Mistakes in arguments and files need one sentence only.
    """
    chain = list(_chain(exc))
    told = next((each for each in chain if isinstance(each, SfdaqError)), chain[-1])
    notes = [note for each in chain for note in getattr(each, "__notes__", ())]
    attempts = [note for note in notes if note.startswith("while ")]
    if isinstance(told, RequestError | ConfigError) and not attempts:
        lines = f"sfdaq: {told}".splitlines()
        more = len(lines) - LINES + 1
        return "\n".join(lines if more < 2 else [*lines[: LINES - 1], f"and {more} more"])
    path = keep_log()
    logger.error("%s failed: %s", what, told, exc_info=exc)
    sentence, advice = _sentence(told)
    words = [f"{what} failed{''.join(f' {each}' for each in attempts[:1])}:"]
    words += _wrapped(sentence, LINES - 4)
    words += _wrapped("; ".join(note for note in notes if note not in attempts), 1)
    words += _wrapped(f"What to do: {advice}" if advice else "", 1)
    return "\n".join([*words, f"  Traceback: {path}"])


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def _sentence(exc: BaseException) -> tuple[str, str]:
    """Return what happened, and what a person does."""
    text = str(exc)
    if isinstance(exc, SfdaqError):
        hint = getattr(exc, "hint", "") or exc.advice
        return text.removesuffix(hint).rstrip(), hint
    known = isinstance(exc, OSError) and exc.filename is not None
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return (
        f"{type(exc).__name__}: {text}{where}",
        "Look at this path, the rights to it and its disk"
        if known
        else "This was not foreseen; the traceback tells where it comes from",
    )


def _wrapped(text: str, most: int) -> list[str]:
    """Break a text for a terminal, elsewhere leave it in one line; indented, no more than `most` lines."""
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 2000
    return textwrap.wrap(
        text, max(width, 40), initial_indent="  ", subsequent_indent="  ", max_lines=most, placeholder=" ..."
    )


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

    def __init__(self):
        super().__init__()
        self.setLevel(logging.WARNING)
        self._shown: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning, and in place of the first too many where the others are."""
        now = time.monotonic()
        self._shown = [at for at in self._shown if now - at < PER]
        if record.name != __name__ or record.levelno < logging.ERROR:  # what `failure` logs, it also returns
            if len(self._shown) <= WARNINGS:
                super().emit(record)
                self._shown.append(now)

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        if len(self._shown) == WARNINGS:
            return f"more warnings are in {keep_log()}"
        return _wrapped(f"{record.levelname.lower()}: {record.getMessage()}", 1)[0].strip()
