"""What the embedded server does better than Tiled alone: readers and writer in turns, quick requests."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

from sfdaq_ophyd.catalog._server import build

N_APPENDS, N_READERS = 12, 3


def test_table_when_read_by_many_while_it_grows_then_no_request_fails_and_no_row_is_lost(catalog, wait_for):
    rows = [pa.table({"a": [float(i)]}) for i in range(N_APPENDS)]
    table = catalog.client.create_appendable_table(rows[0].schema, key="table_of_test_turns")
    table.append_partition(0, rows[0])
    done, failures, n_reads = threading.Event(), [], []

    def read():
        while not done.is_set():
            try:
                table.read()
                n_reads.append(1)
            except Exception as exc:
                failures.append(exc)

    readers = [threading.Thread(target=read) for _ in range(N_READERS)]
    for reader in readers:
        reader.start()
    try:
        for row in rows[1:]:
            table.append_partition(0, row)
        wait_for(lambda: failures or len(n_reads) > N_READERS, "all have read")
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not failures
    assert sorted(table.read()["a"]) == list(range(N_APPENDS))
    catalog.client.delete_contents("table_of_test_turns", external_only=False)


@pytest.mark.filterwarnings("ignore")  # of Alembic and Starlette
def test_request_when_its_route_was_asked_before_then_its_dependencies_are_not_analysed_again(
    tmp_path, monkeypatch
):
    from fastapi.dependencies import utils
    from starlette.testclient import TestClient
    from tiled.server.settings import get_settings

    monkeypatch.setattr(get_settings(), "single_user_api_key", "another server's")
    analysed, original = [], utils.get_dependant
    monkeypatch.setattr(
        utils, "get_dependant", lambda **given: (analysed.append(given), original(**given))[1]
    )
    with TestClient(build(tmp_path, api_key="secret", readable=[])) as client:

        def code(key):
            return client.get("/api/v1/metadata/", headers={"Authorization": f"Apikey {key}"}).status_code

        assert code("secret") == 200
        analysed.clear()
        assert (code("secret"), code("wrong")) == (200, 401) and not analysed
