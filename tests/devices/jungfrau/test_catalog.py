import numpy as np
import pytest

from sfdaq_ophyd.catalog import embedded_catalog
from sfdaq_ophyd.plans import fly


@pytest.mark.timeout(150)  # starting the catalog takes long on a busy machine
def test_fly_scan_when_read_from_the_catalog_then_each_row_has_its_image(
    engine, part, make, calibration, tmp_path
):
    jungfrau = make(directory=tmp_path / "frames", calibration=calibration)
    jungfrau.image_kind.put("both")
    with embedded_catalog(tmp_path / "catalog") as catalog:
        catalog.subscribe(engine.RE)
        engine(fly([jungfrau], 6))
        catalog.flush()
        data = catalog[-1]["primary"].read()
        assert data["jf_image"].shape == (6, 1, *calibration.shape)
        for row in range(6):
            point = data.isel(time=row)
            raw = part.scene.raw(int(point["jf_pulse_id"]))
            assert np.array_equal(point["jf_raw"].values[0], raw)
            assert np.array_equal(point["jf_image"].values[0], calibration(raw))
            assert str(point["jf_event_id"].values) == str(int(point["jf_pulse_id"]))
