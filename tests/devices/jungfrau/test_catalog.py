import bluesky.plans as bp
import numpy as np

from sfdaq_ophyd import setup
from sfdaq_ophyd.plans import fly


def test_scan_when_read_from_the_catalog_then_each_row_has_its_image(
    engine, part, make, calibration, catalog, tmp_path
):
    setup(engine.RE, catalog)
    for stream in ("modules", "assembled"):
        jungfrau = make(directory=tmp_path / "frames", stream=stream, calibration=calibration)
        jungfrau.image_kind.put("both")
        for plan in (fly([jungfrau], 3), bp.count([jungfrau], 2)):
            engine(plan)
            check_rows(catalog, part, calibration)


def check_rows(catalog, part, calibration):
    catalog.flush()
    data = catalog[-1]["primary"].read()
    n = data.sizes["time"]
    assert n in (2, 3) and data["jf_image"].shape == (n, 1, *calibration.shape)
    assert (np.diff(data["jf_pulse_id"].values.ravel()) > 0).all()
    for row in range(n):
        point = data.isel(time=row)
        raw = part.scene.raw(int(point["jf_pulse_id"]))
        assert np.array_equal(point["jf_raw"].values[0], raw)
        assert np.array_equal(point["jf_image"].values[0], calibration(raw))
        assert str(point["jf_event_id"].values) == str(int(point["jf_pulse_id"]))
