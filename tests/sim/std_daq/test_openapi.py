"""Requests made up from the OpenAPI of the newer dialect find nothing wrong with it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import requests

from ...std_daq import simulated_daq


@pytest.mark.parametrize(("pydantic", "examples"), [(2, "6"), (1, "2")])
def test_openapi_when_schemathesis_tries_it_then_it_finds_nothing(pydantic, examples, tmp_path):
    with simulated_daq(dialect="fastapi", pydantic=pydantic, speed=50.0) as server:
        server.service.stop()
        command = [sys.executable, "-m", "schemathesis.cli", "run", server.url + "/openapi.json"]
        command += ["--max-examples", examples, "--seed", "1", "--exclude-path", "/daq/live", "--no-color"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert requests.get(server.url + "/writer/status", timeout=60).json()["status"] == "ok"
