"""Whatever comes from outside, a decode function answers or raises an error of ours.

One table holds all public decode functions of the package; a function that is not in it fails a test.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import warnings
from functools import partial

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sfdaq_ophyd
from sfdaq_ophyd.calibration import options
from sfdaq_ophyd.clients._http import Head, Reply
from sfdaq_ophyd.clients.std_daq_redis import StdDaqRedis
from sfdaq_ophyd.errors import SfdaqError
from sfdaq_ophyd.files import (
    constants,
    daq_file,
    eiger_file,
    gain_file,
    pedestal_file,
    std_daq_file,
    swissfel_file,
)
from sfdaq_ophyd.wire import (
    broker,
    broker_reply,
    broker_request,
    broker_status,
    cbor,
    compression,
    detector_name,
    eiger_stream,
    image_header,
    json_text,
    module_header,
    simplon,
    std_daq,
    std_daq_config,
    std_daq_socket,
    tiff,
    tiff_write,
)
from sfdaq_ophyd.wire.std_daq import FileLayout

JF = "JF01T01V01"
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "30"))
"""Inputs for each function; many more find more."""

bounded = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

# ---- one right input for each function; hypothesis takes it from there

ACQUISITION = {
    "state": "FINISHED",
    "message": "Completed.",
    "info": {"output_file": "/tmp/a.h5", "n_images": 5, "run_id": 17},
    "stats": {"n_write_requested": 5, "n_write_completed": 5, "start_time": 1.5, "stop_time": None},
}
CONFIG = {
    **{"detector_name": "EG", "detector_type": "eiger", "bit_depth": 16, "image_pixel_height": 512},
    **{"image_pixel_width": 512, "n_modules": 4, "start_udp_port": 50000, "writer_user_id": -1},
    "module_positions": {"0": [0, 0, 1, 1]},
}
MODULE_HEADER = {
    **{"jsonversion": 5, "bitmode": 16, "fileIndex": 0, "detshape": [1, 1], "shape": [1024, 512]},
    **{"size": 1048576, "acqIndex": 5, "frameIndex": 0, "progress": 1.5, "fname": "a", "data": 1},
    **{"completeImage": 1, "frameNumber": 5, "expLength": 1, "packetNumber": 128, "detSpec1": 1},
    **{"timestamp": 0, "modId": 0, "row": 0, "column": 0, "detSpec2": 0, "detSpec3": 0, "detSpec4": 0},
    **{"detType": 3, "version": 2, "flipRows": 0, "quad": 0, "addJsonHeader": {"a": "b"}},
}
IMAGE_HEADER = {
    **{"htype": "array-1.0", "shape": [512, 1024], "type": "uint16", "frame": 5, "pulse_id": 100},
    **{"is_good_frame": True, "daq_rec": 1, "detector_name": JF, "timestamp": 1.5},
}
PARAMETER = {
    **{"value": 0.5, "value_type": "float", "access_mode": "rw", "min": 0.0, "max": 1.0, "unit": "s"},
    **{"allowed_values": [0.5], "state": "normal", "time": "2024-05-14T08:59:56Z"},
}
RETRIEVAL = {
    **{"run_number": 1, "acquisition_number": "2", "unique_acquisition_number": 3, "files": ["/sf/a.B.h5"]},
    **{"status": "ok", "message": "fine"},
}
RUNNING = {
    **{"running_detectors": [JF], "missing_detectors": []},
    "limping_detectors": {JF: {"running_modules": [0], "missing_modules": ["1"]}},
}
REQUEST = {
    **{"pgroup": "p12345", "start_pulseid": 100, "stop_pulseid": 200, "rate_multiplicator": 1},
    **{"detectors": {JF: {"adc_to_energy": True, "roi": {"spot": [0, 1, 0, 1]}}}, "run_number": 1},
    **{"channels_list": ["A"], "camera_list": ["B:FPICTURE"], "pv_list": ["C"], "user_tag": "t"},
    **{"scan_info": {"scan_parameters": {"name": ["x"]}}, "selected_pulse_ids": [101, 102], "note": 5},
}
TIFF = tiff_write.encode(np.ones((4, 6), "u2"), tiff_write.TiffTags(7, 42, "0" * 26, 10**18))
PACKED = cbor.ArrayBytes(
    (4, 6), np.dtype("<u2"), "bslz4", 2, compression.compress_bslz4(np.ones((4, 6), "<u2"))
)
STREAM_IMAGE = {
    **{"type": "image", "series_id": 1, "series_unique_id": "A", "image_id": 0, "real_time": [1, 2]},
    **{
        "series_date": cbor.Date("2024-05-14T08:59:56.123+02:00"),
        "start_time": [0, 50],
        "stop_time": [1, 50],
    },
    **{"data": {"threshold_1": PACKED, "difference": np.ones((4, 6), "<i4")}},
}
STREAM_START = {
    **{"type": "start", "series_id": 1, "series_unique_id": "A", "channels": ["threshold_1"]},
    **{"image_size_x": 6, "image_size_y": 4, "number_of_images": 3, "image_dtype": "uint16"},
    **{"pixel_mask": {"threshold_1": np.zeros((4, 6), "<u4")}, "user_data": {"a": 1.5}},
}
LEGACY = [
    b'{"frame":0,"hash":"","htype":"dimage-1.0","series":14}',
    b'{"encoding":"<","htype":"dimage_d-1.0","shape":[3,2],"size":12,"type":"uint16"}',
    bytes(12),
    b'{"htype":"dconfig-1.0","real_time":1,"start_time":2,"stop_time":3}',
]


def parsed(function):
    """A function that takes what JSON gives."""

    def of_value(data):
        return function(json.loads(data))

    return of_value


def takes_bytes(function):
    return getattr(function, "__name__", "") != "of_value"


JSON = {
    "calibration.options.CalibrationOptions.from_json": (
        options.CalibrationOptions.from_json,
        {"roi": {"a": [0, 1, 0, 1]}, "masked_value": None, "gap_pixels": True},
    ),
    "clients.Reply.json": (lambda data: Reply(Head(200, {}), data).json(), {"a": [1]}),
    "clients.StdDaqRedis": (
        lambda data: StdDaqRedis("redis://127.0.0.1:1")._parse("status", b"1-0", {b"json": data}),
        {"state": "READY", "acquisition": ACQUISITION},
    ),
    "wire.broker.dialect_of": (parsed(broker.dialect_of), {"status": "ok", "descriptions": []}),
    "wire.broker_reply.changes": (
        parsed(lambda v: broker_reply.changes({"a": v}, "a")), {"exptime": [1, 2]},
    ),
    "wire.broker_reply.field": (parsed(lambda v: broker_reply.field({"a": v}, "a", list)), [1]),
    "wire.broker_reply.integers": (parsed(lambda v: broker_reply.integers({"a": v}, "a")), [1, "2"]),
    "wire.broker_reply.number": (parsed(lambda v: broker_reply.number(v, "a")), "12"),
    "wire.broker_reply.read_reply": (
        lambda data: [
            broker_reply.read_reply(code, data, dialect, "files")
            for code in (200, 500)
            for dialect in broker.DIALECTS
        ],
        RETRIEVAL,
    ),
    "wire.broker_reply.retrieval": (
        parsed(lambda v: broker_reply.retrieval(dict_of(v), "current")), RETRIEVAL,
    ),
    "wire.broker_reply.running_detectors": (
        parsed(lambda v: broker_reply.running_detectors(dict_of(v), "current")), RUNNING,
    ),
    "wire.broker_reply.strings": (parsed(lambda v: broker_reply.strings({"a": v}, "a")), ["b"]),
    "wire.broker_request.RetrieveRequest.from_wire": (
        parsed(broker_request.RetrieveRequest.from_wire), REQUEST,
    ),
    "wire.broker_status.read_status": (
        parsed(lambda v: broker_status.read_status(v, json.dumps(v).encode(), "id")),
        {"action": "write_start", "source": "w", "message": "m", "output_file": "/sf/a.h5"},
    ),
    "wire.simplon.decode_darray": (
        parsed(simplon.decode_darray), simplon.encode_darray(np.ones((2, 3), "u4")),
    ),
    "wire.image_header.ImageHeader.decode": (image_header.ImageHeader.decode, IMAGE_HEADER),
    "wire.json_text.load_header": (partial(json_text.load_header, what="header"), {"a": 1}),
    "wire.json_text.load_json": (json_text.load_json, {"a": [1]}),
    "wire.module_header.ModuleHeader.decode": (module_header.ModuleHeader.decode, MODULE_HEADER),
    "wire.simplon.Parameter.from_json": (parsed(simplon.Parameter.from_json), PARAMETER),
    "wire.simplon.parse_array": (simplon.parse_array, {"value": [[1, 2], [3, 4]]}),
    "wire.simplon.parse_changed": (partial(simplon.parse_changed, name="x"), ["count_time"]),
    "wire.simplon.parse_image_list": (parsed(simplon.parse_image_list), [[1, [1, 2]], [2, []]]),
    "wire.simplon.parse_keys": (parsed(simplon.parse_keys), ["count_time"]),
    "wire.simplon.parse_sequence_id": (simplon.parse_sequence_id, {"sequence id": 5}),
    "wire.std_daq.AcquisitionRecord.from_dict": (parsed(std_daq.AcquisitionRecord.from_dict), ACQUISITION),
    "wire.std_daq.DaqStatus.from_dict": (
        parsed(lambda v: str(std_daq.DaqStatus.from_dict(v))),
        {"state": "READY", "acquisition": ACQUISITION},
    ),
    "wire.std_daq.WriteRequest.from_dict": (
        parsed(partial(std_daq.WriteRequest.from_dict, default_run_id=1)),
        {"output_file": "/tmp/a.h5", "n_images": 5, "run_id": 17},
    ),
    "wire.std_daq_socket.PushedStatus.from_text": (
        std_daq_socket.PushedStatus.from_text, {"status": "recording", "count": 5},
    ),
    "wire.std_daq_config.DaqConfig.from_dict": (parsed(std_daq_config.DaqConfig.from_dict), CONFIG),
    "wire.std_daq_config.DaqStats.from_dict": (
        parsed(std_daq_config.DaqStats.from_dict),
        {who: {"bytes_per_second": 1.0, "images_per_second": 2} for who in ("detector", "writer")},
    ),
    "wire.std_daq_config.Deployment.from_dict": (
        parsed(std_daq_config.Deployment.from_dict),
        {"status": "SUCCESS", "message": "m", "servers": {"a": "b"}, "config_id": "1-0"},
    ),
    "wire.std_daq_config.LogEntry.list_from": (
        parsed(std_daq_config.LogEntry.list_from), [ACQUISITION, ACQUISITION],
    ),
}  # fmt: skip
"""Functions that read JSON: name, function of bytes, and a right value."""

BYTES = {
    "wire.cbor.decode": (cbor.decode, cbor.encode(STREAM_START)),
    "wire.compression.decompress": (
        lambda data: compression.ArrayBytes((4, 6), np.dtype("<u2"), "bslz4", 2, memoryview(data)).unpack(),
        bytes(PACKED.data),
    ),
    "wire.eiger_stream.decode_legacy": (
        lambda data: eiger_stream.decode_legacy(data.split(b"|")), b"|".join(LEGACY),
    ),
    "wire.eiger_stream.decode_message": (eiger_stream.decode_message, cbor.encode(STREAM_IMAGE)),
    "wire.eiger_stream.decode_message of a start": (eiger_stream.decode_message, cbor.encode(STREAM_START)),
    "wire.detector_name.DetectorName.parse": (
        lambda data: detector_name.DetectorName.parse(data.decode("latin-1")), JF.encode(),
    ),
    "wire.tiff.parse_time_ns": (
        lambda data: tiff.parse_time_ns(data.decode("latin-1")), b"2024-05-14T08:59:56.123456789Z",
    ),
    "wire.tiff.decode": (tiff.decode, TIFF),
    "wire.tiff.decode_array": (tiff.decode_array, TIFF),
}  # fmt: skip
"""Functions that read bytes or text: name, function of bytes, and a right value."""

INTEGERS = {
    "wire.detector_name.DaqRec.decode": detector_name.DaqRec.decode,
    "wire.module_header.decode_pulse_id": module_header.decode_pulse_id,
}

NO_DECODERS = {
    "files.constants.files_of": "the record this package wrote into a file of its own",
}
"""Names that look like decode functions and read nothing from outside."""


def dict_of(value):
    return value if isinstance(value, dict) else {}


# ---- hostile values

HUGE = 9 * 10**400
LEAVES = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 2**63, 2**64, HUGE, -HUGE, 1e400, -1e400, float("nan")]),
    st.sampled_from(["", "a", "READY", "1e400", "-5", "\ud800", "\0", "x" * 300, 1.5, [], {}]),
    st.integers(-5, 70_000),
    st.floats(),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("value", "state", "a", JF, "0")), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value, path=()):
    """Return the path to every part of a JSON value, the whole first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


@st.composite
def changed(draw, right):
    """A right value with up to three parts taken out, or replaced by something hostile."""
    value = copy.deepcopy(right)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        if not path:
            value = draw(st.one_of(VALUES, st.just(value)))
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()) and isinstance(parent, dict):
            del parent[path[-1]]
        else:
            parent[path[-1]] = draw(VALUES)
    return value


@st.composite
def bent(draw, right):
    """Right bytes with some changed, cut, or doubled; or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(right)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.fixture(autouse=True)
def any_integer():
    """Peers of other languages send integers of any length; a session may have lifted Python's limit."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(before)


def check(function, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function(data)
        except SfdaqError as exc:
            assert str(exc)


@pytest.mark.parametrize("name", JSON)
@bounded
@given(data=st.data())
def test_decode_when_json_is_hostile_then_answered_or_an_error_of_ours(name, data):
    function, right = JSON[name]
    function(json.dumps(right).encode())
    check(function, json.dumps(data.draw(changed(right))).encode())


@pytest.mark.parametrize("name", [*(name for name in JSON if takes_bytes(JSON[name][0])), *BYTES])
@bounded
@given(data=st.data())
def test_decode_when_bytes_are_hostile_then_answered_or_an_error_of_ours(name, data):
    function, right = JSON.get(name) or BYTES[name]
    right = right if isinstance(right, bytes) else json.dumps(right).encode()
    function(right)
    check(function, data.draw(bent(right)))


@pytest.mark.parametrize("name", INTEGERS)
@bounded
@given(word=st.integers(0, 2**64 - 1))
def test_decode_when_a_word_is_anything_then_answered(name, word):
    check(INTEGERS[name], word)


# ---- inputs that were found

TARGETS = {
    "module_header": "wire.module_header.ModuleHeader.decode",
    "std_daq_status": "wire.std_daq.DaqStatus.from_dict",
    "std_daq_config": "wire.std_daq_config.DaqConfig.from_dict",
    "std_daq_stats": "wire.std_daq_config.DaqStats.from_dict",
    "std_daq_deployment": "wire.std_daq_config.Deployment.from_dict",
    "broker_status": "wire.broker_status.read_status",
    "simplon_images": "wire.simplon.parse_image_list",
    "simplon_changed": "wire.simplon.parse_changed",
    "simplon_sequence": "wire.simplon.parse_sequence_id",
    "http_json": "clients.Reply.json",
    "redis_entry": "clients.StdDaqRedis",
}


def test_decode_when_an_input_was_found_to_break_it_then_an_error_of_ours(data_dir):
    """Found as `parser-inputs`."""
    lines = (data_dir / "found" / "parser-inputs" / "inputs.txt").read_text().splitlines()
    for line in lines:
        target, text = line.split("\t")
        text = re.sub(r"(\d)@(\d+)", lambda m: m[1] + "0" * int(m[2]), text)
        text = re.sub(r"\{@(\d+)", lambda m: '{"a":' * int(m[1]), text)
        if target == "std_daq_log":
            target, text = "wire.std_daq_config.LogEntry.list_from", f"[{text}]"
        check(JSON[TARGETS.get(target, target)][0], text.encode())
    assert len(lines) == 13


# ---- HDF5

DATASETS = (
    *("gains", "gainsRMS", "pixel_mask", "data", f"data/{JF}", f"data/{JF}/data", f"data/{JF}/pulse_id"),
    *(f"data/{JF}/is_good_frame", f"data/{JF}/daq_rec", f"data/{JF}/frame_index", "data/A/data", "A/data"),
    *("data/A/pulse_id", "A/pulse_id", "EG/data", "EG/image_id", "EG/status", "general/detector_name"),
    *("entry/data/data", "entry/data/image_id", "entry/data/start_time", "entry/start_time"),
    *("adu_means", "meta", f"data/{JF}/meta/module_map", "EG", "A"),
)
CONTENTS = {
    "scalar": lambda file, name: file.create_dataset(name, data=5),
    "text": lambda file, name: file.create_dataset(name, data="READY"),
    "texts": lambda file, name: file.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype()),
    "empty": lambda file, name: file.create_dataset(name, data=np.zeros(0)),
    "null": lambda file, name: file.create_dataset(name, data=h5py.Empty("f8")),
    "pairs": lambda file, name: file.create_dataset(name, data=np.zeros(2, [("a", "i4"), ("b", "i4")])),
    "bytes": lambda file, name: file.create_dataset(name, data=np.zeros(2, "V3")),
    "complex": lambda file, name: file.create_dataset(name, data=np.zeros(2, "c8")),
    "ragged": lambda file, name: file.create_dataset(name, (2,), h5py.vlen_dtype("i4")),
    "references": lambda file, name: file.create_dataset(name, (2,), h5py.ref_dtype),
    "row": lambda file, name: file.create_dataset(name, data=[1, 2]),
    "rows": lambda file, name: file.create_dataset(name, data=np.ones((2, 3))),
    "not finite": lambda file, name: file.create_dataset(name, data=[float("nan"), float("inf")]),
    "many": lambda file, name: file.create_dataset(name, (10**13,), "i8", chunks=(1024,)),
    "large": lambda file, name: file.create_dataset(name, (3, 10**7, 10**7), "f8", chunks=(1, 64, 64)),
    "module": lambda file, name: file.create_dataset(name, (1, 512, 1024), "u2", chunks=(1, 512, 1024)),
    "map": lambda file, name: file.create_dataset(name, (512, 1024), "i8", chunks=(512, 1024)),
    "maps": lambda file, name: file.create_dataset(name, (4, 512, 1024), "f8", chunks=(1, 512, 1024)),
    "group": lambda file, name: file.create_group(name),
    "broken link": lambda file, name: file.__setitem__(name, h5py.SoftLink("/nowhere")),
    "loop": lambda file, name: file.__setitem__(name, h5py.SoftLink(name)),
    "foreign link": lambda file, name: file.__setitem__(name, h5py.ExternalLink("nowhere.h5", "/x")),
}
READERS = {
    "files.constants.load_calibration": lambda path: constants.load_calibration(JF, path, path),
    "files.daq_file.read_daq_file": lambda path: [
        daq_file.read_daq_file(path, source) for source in ("PVDATA", "BSDATA", JF)
    ],
    "files.daq_file.read_texts": lambda path: [
        daq_file.read_texts(path, found)
        for found in daq_file.read_daq_file(path, "BSDATA")
        if found.dtype == daq_file.TEXT
    ],
    "files.eiger_file.read_eiger_data_file": lambda path: eiger_file.read_eiger_data_file(
        path, shape=(512, 1024), dtype="u2"
    ),
    "files.eiger_file.read_eiger_master_file": eiger_file.read_eiger_master_file,
    "files.gain_file.read_gain": lambda path: gain_file.read_gain(path, JF),
    "files.gain_file.read_gain_binary": gain_file.read_gain_binary,
    "files.pedestal_file.read_om_darks": lambda path: pedestal_file.read_om_darks([path], JF),
    "files.pedestal_file.read_pedestal": lambda path: pedestal_file.read_pedestal(path, JF),
    "files.pedestal_file.read_pixel_mask": lambda path: pedestal_file.read_pixel_mask(path, JF),
    "files.std_daq_file.read_std_daq_file": lambda path: std_daq_file.read_std_daq_file(
        path, "EG", n_written=2, shape=(2, 3), dtype="uint16", timeout=0.0
    ),
    "files.std_daq_file.count_std_daq_images": lambda path: std_daq_file.count_std_daq_images(
        path, FileLayout("EG"), 10**6, timeout=0.0
    ),
    "files.swissfel_file.SwissfelFile": lambda path: list(swissfel_file.SwissfelFile(path, JF).frames()),
}


@pytest.mark.parametrize("name", READERS)
@settings(bounded, max_examples=EXAMPLES // 2)
@given(
    contents=st.dictionaries(st.sampled_from(DATASETS), st.sampled_from(sorted(CONTENTS)), max_size=5),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_read_when_the_hdf5_file_is_hostile_then_answered_or_an_error_of_ours(
    name, contents, cut, tmp_path_factory
):
    path = tmp_path_factory.mktemp("hostile") / "file.h5"
    with h5py.File(path, "w") as file:
        for dataset, content in contents.items():
            try:
                CONTENTS[content](file, dataset)
            except (ValueError, TypeError, OSError, KeyError, RuntimeError):
                pass  # it cannot be where another one is
    raw = path.read_bytes()
    path.write_bytes(raw[: round(cut * len(raw))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            READERS[name](path)
        except (SfdaqError, OSError) as exc:
            assert str(exc)


# ---- nobody is left out

LOOKS_LIKE_A_DECODER = re.compile(r"(read|parse|decode|load|from|list_from|files_of|dialect_of)(_.*)?$")


def decoders():
    """Yield the names of all public functions and class methods that look like decode functions."""
    for package in ("wire", "files"):
        root = importlib.import_module(f"sfdaq_ophyd.{package}")
        for info in pkgutil.iter_modules(root.__path__):
            module = importlib.import_module(f"{root.__name__}.{info.name}")
            if not info.name.startswith("_"):
                yield from of_module(module)


def of_module(module):
    short = module.__name__.removeprefix(f"{sfdaq_ophyd.__name__}.")
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) and LOOKS_LIKE_A_DECODER.match(name):
            yield f"{short}.{name}"
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if isinstance(function, classmethod) and LOOKS_LIKE_A_DECODER.match(method):
                    yield f"{short}.{name}.{method}"


def test_table_when_a_decode_function_is_new_then_it_is_in_it():
    known = {*JSON, *BYTES, *INTEGERS, *READERS, *NO_DECODERS}
    assert not set(decoders()) - known
