"""Every exception this package raises on purpose.

::

    SfdaqError
      WireError (ValueError)             their bytes are not what the wire reference says
      RequestError (ValueError)          our arguments are wrong; nothing was sent
        BadConstant                      a gain or a pedestal that no pixel can be calibrated with
      ShapeError (ValueError)            an array has the wrong shape or dtype
        DtypeError (TypeError)           its dtype is the wrong one
      ConstantsMissing (RuntimeError)    a calibration lacks gain, pedestal or mask
      ConfigError (ValueError)           a configuration file is wrong
      FileFormatError (ValueError)       a file lacks a dataset, or holds the wrong one
      StorageError (OSError)             a disk or a folder does not take what is written
      ServiceUnreachable (ConnectionError)   the request never reached the service
      ServiceTimeout (TimeoutError)      no answer, or no progress, within the limit
      ServiceRefused (RuntimeError)      the service answered, and the answer was no
        BrokerRefused                    the sf-daq broker did; says whether anything happened before
      RunNumberMismatch (RuntimeError)   the broker put data into another run than asked
      UnknownOutcome (RuntimeError)      sent, but the reply was lost; must not be repeated blindly
      DetectorStateError (RuntimeError)  the device cannot do this in its present state
      FramesMissing (RuntimeError)       frames that were asked for did not come
      FilesMissing (RuntimeError)        files that were asked for did not come, or are damaged
      PreflightFailed (RuntimeError)     a check before a run failed; nothing was used up
      RunNotFound (KeyError)             the catalog has no such run
      ExtraMissing (ImportError)         a feature's packages are not installed; says which extra brings them
      Discarded (RuntimeError)           the exposure was given up on purpose (pause, stop, abort)

A subclass carries its facts as attributes and builds its sentence once. A sentence answers: what was
attempted, on what, what came back, what was expected or what to do next.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

_LOGIN = re.compile(r"//\S*@")
_BARE_LOGIN = re.compile(r"^[^/\s@:]*:(?!//)\S*@")
_SECRET = re.compile(r"(?i)([?&](?:password|passwd|secret|token|api_key)=)[^&#\s'\"]*")


def shown_url(url: object) -> str:
    """Return an address as it may be shown: without user, password, or a secret in its query.

    Every address that goes into a message, a log or a document passes through here.

    Examples
    --------
    >>> shown_url("redis://:secret@host:6379")
    'redis://***@host:6379'
    """
    return without_secrets(_BARE_LOGIN.sub("***@", str(url)))


def without_secrets(text: str) -> str:
    """Return a text without the users, passwords and keys of the addresses in it."""
    return _SECRET.sub(r"\1***", _LOGIN.sub("//***@", text))


class SfdaqError(Exception):
    """Root of every exception raised on purpose by this package; its message shows no password.

    Attributes
    ----------
    advice : str
        What a person does, where the sentence (or its ``hint``) does not say.
    """

    advice = ""

    __str__ = Exception.__str__  # the sentence as it is, of a KeyError and an OSError too

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(arg) if isinstance(arg, str) else arg for arg in args))


class WireError(SfdaqError, ValueError):
    """Bytes from outside do not follow the wire format."""


class RequestError(SfdaqError, ValueError):
    """An argument of ours is wrong; nothing was sent.

    Parameters
    ----------
    field, value, expected : object
        Name of the argument, or of the field in the request; what was given; what would have been right.
    """

    def __init__(self, field: str, value: object, expected: str):
        self.field, self.value, self.expected = field, value, expected
        shown = repr(value)
        super().__init__(f"{field}={shown[:200]}{'...' * (len(shown) > 200)}: expected {expected}")


class BadConstant(RequestError):
    """A gain of 0, NaN or infinity, or such a pedestal, on a pixel in use.

    Parameters
    ----------
    maps, stage : str
        ``"gain"`` or ``"pedestal"``; which of the maps: G0, G1, G2, HG0, HG1 or HG2.
    y, x : int
        Of the first such pixel, in the stacked modules.
    value : float
        What it has.
    n_pixels : int
        How many such pixels there are, in all maps.
    of : str
        The detector, and the files if they are known.
    """

    def __init__(self, maps: str, stage: str, y: int, x: int, *, value: float, n_pixels: int, of: str):
        self.maps, self.stage, self.y, self.x, self.n_pixels = maps, stage, y, x, n_pixels
        expected = (
            "finite numbers and no gain of 0 on unmasked pixels; "
            f"{n_pixels} have others: mask them, or pass bad_constants='mask'"
        )
        super().__init__(f"{maps} of {of}, {stage} at row {y}, column {x}", value, expected)


class ShapeError(SfdaqError, ValueError):
    """An array has the wrong shape or dtype."""


class DtypeError(ShapeError, TypeError):
    """An array has the wrong dtype."""


class ConstantsMissing(SfdaqError, RuntimeError):
    """A calibration was asked for without the gain, pedestal or mask it needs."""


class ConfigError(SfdaqError, ValueError):
    """A configuration file is wrong; the message names file, line and key where they are known."""


class FileFormatError(SfdaqError, ValueError):
    """A file lacks a dataset or holds one of the wrong shape, dtype or detector.

    Parameters
    ----------
    path, dataset : str
        The file, and the path inside it.
    found, expected : str
        What is there, and what should be.
    """

    advice = "Is it the right file, and whole? `sfdaq repair` opens one whose writer was killed"

    def __init__(self, path: object, dataset: str, *, found: str, expected: str):
        self.path, self.dataset, self.found, self.expected = str(path), dataset, found, expected
        super().__init__(f"{path}: dataset {dataset!r}: found {found}, expected {expected}")


class StorageError(SfdaqError, OSError):
    """A disk or a folder does not take what is written to it.

    Parameters
    ----------
    path : str or Path
        The file or folder.
    what, reason, hint : str
        What was attempted, e.g. ``"writing"``; the system's words; what a person does now.
    free : str, optional
        Space on its disk.
    number : int, optional
        The system's error number, then `errno`.
    """

    def __init__(
        self, path: object, *, what: str, reason: str, hint: str, free: str = "", number: int | None = None
    ):
        self.path, self.what, self.reason, self.free, self.hint = str(path), what, reason, free, hint
        space = f" ({free} on its disk)" if free else ""
        super().__init__(f"{what} {path}: {reason}{space}. {hint}")
        self.errno = number


class ServiceUnreachable(SfdaqError, ConnectionError):
    """The request never reached the service; repeating it is harmless."""

    advice = "Is it on, and reached from here? `sfdaq doctor` asks every address"

    def __init__(self, what: str, *, url: str, reason: object):
        url = shown_url(url)
        self.what, self.url, self.reason = what, url, str(reason)
        super().__init__(f"{what}: {url} is not reachable ({reason})")


class ServiceTimeout(SfdaqError, TimeoutError):
    """No answer, or no progress, within the limit.

    Parameters
    ----------
    what : str
        What was waited for.
    timeout : float
        How long, s.
    last_seen, hint : str, optional
        The last state seen before giving up; what a person does now.
    """

    advice = "`sfdaq doctor` tells whether it answers; where it is only slow, give it a longer limit"

    def __init__(self, what: str, timeout: float, last_seen: str = "", hint: str = ""):
        self.what, self.timeout, self.last_seen, self.hint = what, timeout, last_seen, hint
        seen, then = f"; last state {last_seen}" if last_seen else "", f". {hint}" if hint else ""
        super().__init__(f"{what}: not done after {timeout:g} s{seen}{then}")


class ServiceRefused(SfdaqError, RuntimeError):
    """The service answered, and the answer was no.

    Parameters
    ----------
    what, url : str
        What was asked of which service, e.g. ``"PUT detector/config/count_time"``.
    said : str
        The service's own words; the sentence has 500 characters of them.
    code : int, optional
        HTTP status code.
    """

    advice = "Its own words tell; `sfdaq doctor` shows its version and state"

    def __init__(self, what: str, *, url: str, said: str, code: int | None = None):
        url = shown_url(url)
        self.what, self.url, self.said, self.code = what, url, said, code
        number = "" if code is None else f" with {code}"
        super().__init__(f"{what}: {url} answered{number}: {said[:500]!r}")


class BrokerRefused(ServiceRefused):
    """The sf-daq broker answered, and the answer was not "ok".

    Parameters
    ----------
    endpoint, url : str
        The call, and the service.
    sent, reply : mapping
        The request, and the whole reply; that is empty where it was HTML.
    said, exception : str
        The broker's own words; class name of the exception in the server, empty where it does not tell.
    code : int
        HTTP status code.
    nothing_done : bool
        True if the refusal came before any effect; False if part of the work may have been done.
    hint : str
        What a person does now.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        url: str,
        sent,
        reply,
        said: str,
        exception: str = "",
        code: int = 200,
        nothing_done: bool = True,
        hint: str = "",
    ):
        url = shown_url(url)
        self.what, self.url, self.said, self.code = endpoint, url, said, code
        self.endpoint, self.sent, self.reply = endpoint, dict(sent), dict(reply)
        self.exception, self.nothing_done, self.hint = exception, nothing_done, hint
        words = f"{exception} {said[:500]!r}" if exception else repr(said[:500])
        about = [
            f"{key} {self.sent[key]!r}" for key in ("pgroup", "run_number", "detector_name") if key in sent
        ]
        text = f"broker refused {endpoint}: {words} ({', '.join([*about, url])})"
        SfdaqError.__init__(self, f"{text}. {hint}" if hint else text)


class RunNumberMismatch(SfdaqError, RuntimeError):
    """The broker put data into another run than asked; the request was carried out.

    Parameters
    ----------
    asked, got : int
        Run numbers.
    reply : object
        With the files that will be written.
    """

    def __init__(self, *, asked: int, got: int, reply: object):
        self.asked, self.got, self.reply = asked, got, reply
        self.files: tuple[str, ...] = tuple(getattr(reply, "files", ()))
        super().__init__(f"asked for run {asked}, and the broker answered for run {got}: {reply}")


class UnknownOutcome(SfdaqError, RuntimeError):
    """A request that must not be repeated was sent, and its reply was lost.

    Parameters
    ----------
    what, url : str
        The request, and the service.
    reason : object
        How the reply was lost.
    hint : str
        What a person can do to find out, or to go on.
    """

    def __init__(self, what: str, *, url: str, reason: object, hint: str):
        url = shown_url(url)
        self.what, self.url, self.reason, self.hint = what, url, str(reason), hint
        super().__init__(f"{what}: sent to {url}, but the reply was lost ({reason}); outcome unknown. {hint}")


class DetectorStateError(SfdaqError, RuntimeError):
    """The device cannot do this in its present state."""

    advice = "`sfdaq doctor` shows its state"


class FramesMissing(SfdaqError, RuntimeError):
    """Frames that were asked for did not come.

    Parameters
    ----------
    device : str
        Its name.
    asked, got : int
        Numbers of frames.
    missing : sequence, optional
        Ids known to be missing.
    detail : str, optional
        Counters and last state, for the reader of the message.
    """

    advice = "Is the detector running and triggered? `sfdaq doctor` looks for images; or tolerate the loss"

    def __init__(self, device: str, *, asked: int, got: int, missing=(), detail: str = ""):
        self.device, self.asked, self.got, self.missing = device, asked, got, tuple(missing)
        text = f"{device}: {got} of {asked} frames came"
        if self.missing:
            shown = ", ".join(str(m) for m in self.missing[:10])
            more = f" and {len(self.missing) - 10} more" if len(self.missing) > 10 else ""
            text += f"; missing ids {shown}{more}"
        if detail:
            text += f"; {detail}"
        super().__init__(text)


class FilesMissing(SfdaqError, RuntimeError):
    """Files that were asked for did not come, or cannot be read.

    Parameters
    ----------
    device : str
        Its name.
    reasons : mapping of str to str
        File to what is known of it: the writer's own words, or what was seen last.
    """

    advice = "The writer's own log tells more; `register_late` looks for them again"

    def __init__(self, device: str, reasons):
        self.device, self.reasons = device, dict(reasons)
        shown = [f"{path}: {reason}" for path, reason in list(self.reasons.items())[:5]]
        more = [f"and {len(self.reasons) - 5} more"] if len(self.reasons) > 5 else []
        super().__init__(f"{device}: {len(self.reasons)} files did not come: {'; '.join([*shown, *more])}")


class PreflightFailed(SfdaqError, RuntimeError):
    """A check before a run failed; no run number was taken.

    Parameters
    ----------
    device, table : str
        Its name; all checks, one line each.
    failed : mapping of str to str
        Check to what is wrong and what a person does.
    """

    def __init__(self, device: str, failed, table: str = ""):
        self.device, self.failed, self.table = device, dict(failed), table
        text = "; ".join(f"{check}: {what}" for check, what in self.failed.items())
        super().__init__(f"{device}: not ready, no run number was taken: {text}")


class Discarded(SfdaqError, RuntimeError):
    """The exposure in flight was given up on purpose: pause, stop or abort."""


class RunNotFound(SfdaqError, KeyError):
    """The catalog has no such run.

    Parameters
    ----------
    key : object
        What was looked for: a uid or its beginning, a scan_id, or a negative index.
    where, reason : object
        Directory of the catalog; what the look-up said.
    waiting : sequence of str
        Runs whose documents are on disk and not in the catalog.
    """

    def __init__(self, key: object, *, where: object, reason: object, waiting=()):
        self.key, self.where, self.waiting = key, str(where), tuple(waiting)
        text = f"no run {key!r} in the catalog {where}: {reason}"
        if self.waiting:
            text += f". {len(self.waiting)} runs wait beside it; catalog.replay() brings them in"
        super().__init__(text)


class ExtraMissing(SfdaqError, ImportError):
    """A feature needs packages that a plain installation does not bring.

    Parameters
    ----------
    what, extra : str
        The feature; the extra that brings what it needs.
    missing : sequence of str
        Modules that cannot be imported.
    """

    def __init__(self, what: str, missing, extra: str):
        self.what, self.missing, self.extra = what, tuple(missing), extra
        absent = f"{', '.join(self.missing)}: not installed"
        super().__init__(f"{what} needs {absent}. Install with: pip install 'sfdaq-ophyd[{extra}]'")


def require(extra: str, what: str, *modules: str) -> None:
    """Raise ExtraMissing unless all `modules` are installed; imports none of them.

    Examples
    --------
    >>> require("calibration", "the fast engine", "json")
    """
    missing = [name for name in modules if not is_installed(name)]
    if missing:
        raise ExtraMissing(what, missing, extra)


def is_installed(name: str) -> bool:
    """Return whether a module can be found; it is not imported."""
    try:
        return find_spec(name) is not None
    except ValueError:  # imported, and made by hand
        return True
    except ModuleNotFoundError:  # its parent is not
        return False
