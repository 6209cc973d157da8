"""The stream's misbehaviour, by name: a series that says what a real one should not."""

from __future__ import annotations

from dataclasses import replace

from ...wire.cbor import SELF_DESCRIBED, Date
from ...wire.compression import ArrayBytes
from ...wire.ulid import make_ulid
from ..faults import Fault, Faults
from .packed import compress
from .stream_legacy import LegacySeries
from .stream_series import CborSeries, Fields, Parts, RecordedSeries, encode

_TAG = bytes.fromhex("d9fde8")  # 65000, which means nothing
_HUGE = 1 << 40


class FaultySeries:
    """A series whose messages are those of another, but for the faults that were asked for.

    Parameters
    ----------
    series : CborSeries, LegacySeries or RecordedSeries
    faults : Faults
    """

    def __init__(self, series: CborSeries | LegacySeries | RecordedSeries, faults: Faults):
        self._series, self._faults = series, faults
        self._untagged = faults.take("no_self_described") is not None
        self._early = faults.take("early_end")
        self._held: list[Parts] = []
        self._ended = False
        offset = faults.take("clock_offset")
        if offset is not None:
            series.clock.offset_ns = round(offset.get("seconds", 1.0) * 1e9)

    def start(self) -> list[Parts]:
        """Return the messages with which the series begins."""
        if self._faults.take("lost_start") is not None:
            return []
        message = self._series.start()
        if isinstance(message, dict):
            if self._faults.take("no_image_dtype") is not None:
                message.pop("image_dtype", None)
            if self._faults.take("integers_for_floats") is not None:
                message = {name: _whole(value) for name, value in message.items()}
        return [self._encode(message)] if message else []

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> list[Parts]:
        """Return the messages that follow an exposure; parameters as for `CborSeries.image`."""
        said: list[Parts] = []
        if self._takes("new_unique_id", image_id) is not None and not isinstance(self._series, LegacySeries):
            self._series.unique_id = make_ulid(time_ns, 0)
            said += [self._encode(start)] if (start := self._series.start()) else []
        if not (message := self._series.image(image_id, time_ns, count_time)):
            return said
        parts = self._encode(self._odd(message, image_id) if isinstance(message, dict) else message)
        if (fault := self._takes("cut_message", image_id)) is not None:
            parts = (parts[0][: int(fault.get("keep", len(parts[0]) // 2))], *parts[1:])
        if self._takes("unknown_tag", image_id) is not None and isinstance(message, dict):
            more = self._encode({**message, "unknown_tag": Date("what is this?")})
            parts = (bytes(more[0]).replace(b"unknown_tag\xc0", b"unknown_tag" + _TAG),)
        if self._takes("unknown_type", image_id) is not None and isinstance(end := self._series.end(), dict):
            said.append(self._encode({**end, "type": "calibration"}))
        if self._takes("extra_part", image_id) is not None:
            parts = (*parts, b"{}")
        if self._early is not None:
            before = int(self._early.get("before", 1))
            if image_id >= self._series.settings.number_of_images - before:
                said += self.end()
        said += [] if self._takes("lost_image", image_id) is not None else [parts]
        said += [parts] if self._takes("duplicate", image_id) is not None else []
        if self._takes("swapped", image_id) is not None:
            self._held += said
            return []
        said, self._held = said + self._held, []
        return said

    def end(self) -> list[Parts]:
        """Return the messages with which the series ends; none if they were sent."""
        said, self._held = self._held, []
        if not self._ended and self._faults.take("lost_end") is None and (message := self._series.end()):
            said.append(self._encode(message))
        self._ended = True
        return said

    def _takes(self, what: str, image_id: int) -> Fault | None:
        return self._faults.take(what, image_id=image_id)

    def _encode(self, message: Fields | list[bytes | memoryview]) -> Parts:
        parts = encode(message)
        if self._untagged and isinstance(message, dict):
            return (memoryview(parts[0])[len(SELF_DESCRIBED) :],)
        return parts

    def _odd(self, message: Fields, image_id: int) -> Fields:
        """Return the fields of an image with what is wrong with them."""
        if self._takes("unknown_key", image_id) is not None:
            message = {**message, "unknown_key": {"values": [1, 2.5, None]}}
        if (fault := self._takes("missing_field", image_id)) is not None:
            message = {k: value for k, value in message.items() if k != fault.get("field", "series_date")}
        data = message.get("data")
        for what, spoil in _SPOIL.items():
            if isinstance(data, dict) and self._takes(what, image_id) is not None:
                message["data"] = {channel: spoil(array) for channel, array in data.items()}
        return message


def _shorter(array: ArrayBytes) -> ArrayBytes:
    pixels = array.unpack().reshape(-1)[:-1]
    return replace(array, data=memoryview(compress(array.algorithm, pixels)))


_SPOIL = {
    "unknown_algorithm": lambda array: replace(array, algorithm="zstd"),
    "huge_prefix": lambda array: replace(
        array,
        algorithm="lz4" if array.algorithm == "none" else array.algorithm,
        data=memoryview(_HUGE.to_bytes(8, "big") + bytes(array.data[8:])),
    ),
    "wrong_length": _shorter,
}
"""What is done to the arrays of an image."""


def _whole(value: object) -> object:
    """Return a value with integers in place of floats wherever they say the same."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
