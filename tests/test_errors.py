import re

import pytest

from sfdaq_ophyd import errors as e


@pytest.mark.parametrize(
    ("error", "builtin", "message"),
    [
        (e.RequestError("n_images", 0, "an integer of at least 1"), ValueError,
         "n_images=0: expected an integer of at least 1"),
        (e.FileFormatError("/a.h5", "/gains", found="(2, 3)", expected="(3, 512, 1024)"), ValueError,
         "/a.h5: dataset '/gains': found (2, 3), expected (3, 512, 1024)"),
        (e.ServiceUnreachable("broker: GET /x", url="http://h:1", reason="refused"), ConnectionError,
         "broker: GET /x: http://h:1 is not reachable (refused)"),
        (e.ServiceTimeout("jf07: writer", 10, "READY", "Ask the DAQ team."), TimeoutError,
         "jf07: writer: not done after 10 s; last state READY. Ask the DAQ team."),
        (e.ServiceRefused("PUT x", url="http://h", said="no", code=400), RuntimeError,
         "PUT x: http://h answered with 400: 'no'"),
        (e.UnknownOutcome("POST x", url="http://h", reason="reset", hint="Look in meta."), RuntimeError,
         "POST x: sent to http://h, but the reply was lost (reset); outcome unknown. Look in meta."),
        (e.FramesMissing("jf", asked=3, got=1, missing=[7, 8], detail="2 late"), RuntimeError,
         "jf: 1 of 3 frames came; missing ids 7, 8; 2 late"),
    ],
)  # fmt: skip
def test_message_when_built_then_says_what_on_what_and_what_next(error, builtin, message):
    assert str(error) == message
    assert isinstance(error, e.SfdaqError) and isinstance(error, builtin)


def test_request_error_when_value_is_huge_then_message_is_short():
    assert len(str(e.RequestError("x", "a" * 10_000, "less"))) < 300


def test_frames_missing_when_many_ids_then_counts_the_rest():
    assert "and 90 more" in str(e.FramesMissing("jf", asked=100, got=0, missing=range(100)))


def test_docstring_when_class_added_then_drawn_in_the_tree():
    classes = [c for c in vars(e).values() if isinstance(c, type) and issubclass(c, e.SfdaqError)]
    for cls in classes:
        assert re.search(rf"\b{cls.__name__}\b", e.__doc__), cls


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:80/a", "http://host:80/a"),
        ("http://me:s3cret@host/a", "http://***@host/a"),
        ("http://me:s3/cr@et@host", "http://***@host"),
        ("redis://:s3cret@host:6379/0", "redis://***@host:6379/0"),
        ("redis://host?db=1&password=s3cret&x=2", "redis://host?db=1&password=***&x=2"),
        ("me:s3cret@host:80", "***@host:80"),
        ("/data/me:you@home/gains.h5", "/data/me:you@home/gains.h5"),
        (None, "None"),
    ],
)
def test_shown_url_when_it_has_a_secret_then_it_is_left_out(url, shown):
    assert e.shown_url(url) == shown


def test_errors_when_given_an_address_with_a_password_then_they_do_not_show_it():
    """Found as `password-in-messages`."""
    url = "http://me:s3cret@host"
    errors = [
        e.RequestError("url", url, "another"),
        e.RequestError("devices", {"eiger": {"url": url}}, "another"),
        e.ConfigError(f"sfdaq.yaml:3: devices.eiger.url: not {url!r}"),
        e.WireError(f"not a time: {url}"),
        e.ServiceUnreachable("GET /x", url=url, reason="refused"),
        e.ServiceRefused("GET /x", url=url, said="no"),
        e.BrokerRefused("get_x", url=url, sent={}, reply={}, said="no"),
        e.UnknownOutcome("POST /x", url=url, reason="reset", hint=""),
    ]
    assert not [error for error in errors if "s3cret" in f"{error} {error!r} {getattr(error, 'url', '')}"]
