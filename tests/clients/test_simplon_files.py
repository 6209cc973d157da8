"""Files of the filewriter, fetched from the simulator: whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import threading

import pytest
import requests

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.errors import Discarded, RequestError, ServiceRefused, ServiceUnreachable, WireError
from sfdaq_ophyd.sim import Facility

from ..http_peer import serving


@pytest.fixture(scope="module")
def part():
    with Facility(only=["eiger"], eiger_shape=(128, 160), eiger_dwell=0, eiger_initialized=True) as facility:
        client = SimplonClient(facility.eiger.url)
        client.put("detector", "frame_time", 0.002)
        client.put("detector", "nimages", 8)
        client.put("filewriter", "nimages_per_file", 4)
        client.put("filewriter", "mode", "enabled")
        yield facility.eiger


@pytest.fixture
def client(part):
    part.faults.clear()
    part.requests.clear()
    client = SimplonClient(part.url)
    client.command("filewriter", "clear")
    client.put("filewriter", "name_pattern", "mine")
    client.arm()
    client.trigger(0.016)
    yield client
    client.close()


NAME = "mine_data_000002.h5"


def whole(part, name=NAME):
    return requests.get(f"{part.url}/data/{name}", timeout=60).content


def test_files_when_listed_then_their_names_and_sizes(part, client):
    assert client.files.names() == ["mine_master.h5", "mine_data_000001.h5", NAME]
    assert client.files.size(NAME) == len(whole(part)) > 10_000
    assert client.files.size("mine_data_000003.h5") is None


def test_download_when_it_is_whole_then_renamed_with_progress_and_kept_on_the_unit(part, client, tmp_path):
    told = []
    path = client.files.download(NAME, tmp_path / "new", on_progress=lambda *n: told.append(n))
    assert path == tmp_path / "new" / NAME and path.read_bytes() == whole(part)
    assert told[-1] == (len(whole(part)),) * 2 and list(path.parent.iterdir()) == [path]
    assert NAME in client.files.names()
    client.files.delete(NAME)
    client.files.delete(NAME)
    assert NAME not in client.files.names()


def test_download_when_the_connection_is_cut_then_goes_on_where_it_was(part, client, tmp_path):
    content = whole(part)
    part.fail_next("cut_file", after=9000)
    part.fail_next("cut", path="/data/")  # while nothing new comes
    part.requests.clear()
    told = []
    path = client.files.download(NAME, tmp_path, on_progress=lambda n, size: told.append(n))
    assert path.read_bytes() == content
    assert told == sorted(told) and 9000 in told


def test_download_when_a_part_is_there_then_fetched_anew(part, client, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(bytes(10**6))
    assert client.files.download(NAME, tmp_path).read_bytes() == whole(part)


def test_download_when_parts_are_not_served_then_all_is_fetched(part, client, tmp_path):
    content, told = whole(part), []
    part.fail_next("cut_file", after=9000)

    def no_parts(n_bytes, size):
        if not told:
            part.fail_next("no_range")
        told.append(n_bytes)

    assert client.files.download(NAME, tmp_path, on_progress=no_parts).read_bytes() == content
    assert 9000 in told and told[-1] == len(content)


def test_download_when_the_size_is_wrong_then_refused_by_name_and_not_renamed(part, client, tmp_path):
    size = len(whole(part))
    part.fail_next("short_file", keep=99)
    with pytest.raises(WireError, match=rf"/data/{NAME}: 99 bytes came, {size} expected"):
        client.files.download(NAME, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.part"]


def test_download_when_the_unit_goes_then_raised_in_the_end_and_the_part_stays(part, client, tmp_path):
    part.fail_next("cut_file", after=9000)

    def then_gone(n_bytes, size):
        part.fail_next("cut", path="/data/", count=10_000)

    with pytest.raises(ServiceUnreachable):
        client.files.download(NAME, tmp_path, patience=0.3, on_progress=then_gone)
    part.faults.clear()
    assert (tmp_path / f"{NAME}.part").stat().st_size == 9000


def test_download_when_the_disk_is_full_then_the_disks_own_error(part, client, tmp_path):
    class Full(Exception):
        pass

    @contextlib.contextmanager
    def writing(path):
        yield
        if path.name.endswith(".part") and path.exists() and path.stat().st_size:
            raise Full(errno.ENOSPC)

    with pytest.raises(Full):
        client.files.download(NAME, tmp_path, writing=writing)


def test_download_when_given_up_then_at_once_and_the_part_stays(part, client, tmp_path):
    stop = threading.Event()
    part.fail_next("cut_file", after=9000)
    with pytest.raises(Discarded):
        client.files.download(NAME, tmp_path, stop=stop, on_progress=lambda *n: stop.set())
    assert (tmp_path / f"{NAME}.part").stat().st_size == 9000


def test_download_when_one_hangs_then_interrupt_ends_it(part, client, tmp_path):
    stop, hung = threading.Event(), threading.Event()
    part.fail_next("hang", path="/data/")
    ended = []

    def run():
        hung.set()
        try:
            client.files.download(NAME, tmp_path, stop=stop)
        except (Discarded, ServiceUnreachable) as exc:
            ended.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert hung.wait(60)
    stop.set()
    while thread.is_alive():
        client.files.interrupt()
        thread.join(0.01)
    assert ended and not (tmp_path / NAME).exists()


@pytest.mark.parametrize("name", ["../x.h5", "a/b.h5", "", "..", "a\\b", "x\n.h5"])
def test_download_when_the_name_is_no_files_then_refused(part, client, tmp_path, name):
    with pytest.raises(RequestError, match="name of a file"):
        client.files.download(name, tmp_path)
    assert not any("/data/" in request.path for request in part.requests)


def test_download_when_there_is_no_such_file_or_one_is_here_then_refused(part, client, tmp_path):
    with pytest.raises(ServiceRefused, match="nothing.h5"):
        client.files.download("nothing.h5", tmp_path)
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(RequestError, match="no file is replaced"):
        client.files.download(NAME, tmp_path)
    assert (tmp_path / NAME).read_bytes() == b"mine"


@pytest.mark.parametrize("length", ["9" * 4301, "9" * 19, "-5", "x", "²"])
def test_size_when_the_unit_tells_no_length_that_can_be_then_an_error_of_ours(length):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", length)
        handler.end_headers()

    with serving(answer) as url, contextlib.closing(SimplonClient(url)) as client:
        with pytest.raises(WireError, match="no Content-Length"):
            client.files.size(NAME)
