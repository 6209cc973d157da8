"""What one series says on the stream in version 1: JSON parts and blobs, of one threshold.

As in wire reference eiger, section 7. No sockets and no clock in here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from .frames import stamp_of
from .packed import PackedScene
from .stream_series import NS_PER_TICK, ExposureClock, SeriesSettings

_CONFIG = (
    "auto_summation beam_center_x beam_center_y bit_depth_image bit_depth_readout chi_increment chi_start"
    " compression count_time countrate_correction_applied countrate_correction_count_cutoff"
    " data_collection_date description detector_distance detector_number detector_readout_time"
    " detector_translation eiger_fw_version element flatfield_correction_applied frame_count_time frame_time"
    " kappa_increment kappa_start nimages ntrigger number_of_excluded_pixels omega_increment omega_start"
    " phi_increment phi_start photon_energy pixel_mask_applied roi_mode sensor_material sensor_thickness"
    " software_version threshold_energy trigger_mode two_theta_increment two_theta_start"
    " virtual_pixel_correction_applied wavelength x_pixel_size x_pixels_in_detector y_pixel_size"
    " y_pixels_in_detector"
).split()
"""Parameters in the header's second part."""

_DEAD_TIME = 2.7e-7


class LegacySeries:
    """The messages of one series in version 1; each is a list of parts."""

    def __init__(self, settings: SeriesSettings, scenes: Mapping[str, PackedScene]):
        self.settings, self._channel = settings, settings.channels[0]
        self._scene = scenes[self._channel]
        self.clock = ExposureClock(settings)

    def start(self) -> list[bytes | memoryview]:
        """Return the header: 1 part, 2 or, with everything, 8 and the appendix."""
        stream, detector = self.settings.stream, self.settings.maker.values
        detail = stream["header_detail"]
        parts: list[bytes | memoryview] = [
            _json(header_detail=detail, htype="dheader-1.0", series=self._series_id)
        ]
        if detail != "none":
            config = {name: detector[name] for name in _CONFIG}
            config["frame_period"] = config["frame_count_time"] + config["detector_readout_time"]
            parts.append(_json(**config))
        if detail == "all":
            true = np.arange(4000) * 1125.0
            rates = np.stack([true, true * np.exp(-true * _DEAD_TIME)], axis=1).astype("<f4")
            tables = {
                "dflatfield-1.0": self.settings.maker.arrays["flatfield"],
                "dpixelmask-1.0": self.settings.maker.arrays["pixel_mask"],
                "dcountrate_table-1.0": rates,
            }
            for htype, table in tables.items():
                parts.append(_json(htype=htype, shape=list(table.shape[::-1]), type=table.dtype.name))
                parts.append(np.ascontiguousarray(table).data.cast("B"))
            parts += _appendix(stream["header_appendix"])
        return parts

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> list[bytes | memoryview]:
        """Return one exposure's 4 parts, 5 with an appendix; parameters as for `ExposureClock.times`."""
        start, stop, real = self.clock.times(time_ns, count_time)
        began = (self.clock.first_ns - self.settings.initialized_ns) // NS_PER_TICK
        maker = self.settings.maker
        stamp, sample = stamp_of(self._series_id, image_id), maker.sample_of(image_id)
        array = self._scene.frame(image_id, stamp, sample, lambda: maker.band(image_id))
        lz4 = "" if array.algorithm == "none" else "lz4"
        shuffled = f"bs{8 * array.element_size}-" if array.element_size else ""
        about = _json(
            encoding=f"{shuffled}{lz4}<",
            htype="dimage_d-1.0",
            shape=list(array.shape[::-1]),
            size=len(array.data),
            type=array.dtype.name,
        )
        return [
            _json(
                frame=image_id,
                hash=hashlib.md5(about, usedforsecurity=False).hexdigest(),
                htype="dimage-1.0",
                series=self._series_id,
            ),
            about,
            array.data,
            _json(
                htype="dconfig-1.0",
                real_time=real * NS_PER_TICK,
                start_time=(began + start) * NS_PER_TICK,
                stop_time=(began + stop) * NS_PER_TICK,
            ),
            *_appendix(self.settings.stream["image_appendix"]),
        ]

    def end(self) -> list[bytes | memoryview]:
        """Return the last message, one part."""
        return [_json(htype="dseries_end-1.0", series=self._series_id)]

    @property
    def _series_id(self) -> int:
        return self.settings.maker.series_id


def _json(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


def _appendix(value: object) -> list[bytes]:
    """Return the part of an appendix as it was put; none if it is empty."""
    if value == "":
        return []
    return [(value if isinstance(value, str) else json.dumps(value)).encode()]
