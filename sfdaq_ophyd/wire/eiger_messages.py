"""What the messages of an Eiger's stream say: start, image and end of a series, in both versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..errors import WireError
from .array_bytes import ArrayBytes


class UnknownMessage(WireError):
    """A message is whole and of a type that is not known; others follow."""


class FrameRefused(WireError):
    """An image message is whole, and none of its arrays can be right.

    Parameters
    ----------
    series : str
        Unique id of the series.
    image_id : int
    reason : str
        What is wrong: field, value and what was expected.
    """

    def __init__(self, series: str, image_id: int, reason: str):
        super().__init__(f"image {image_id} of series {series}: {reason}")
        self.series, self.image_id, self.reason = series, image_id, reason


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesStart:
    """What holds for all images of a series.

    Attributes
    ----------
    series_id : int
        The sequence id that arming replied; it starts again when the detector is initialized.
    series_unique_id : str
        The series' own, for ever.
    number_of_images : int or None
        Of the whole series.
    channels : tuple of str
        Thresholds in use, in the order of the images' data.
    shape : tuple of int
        (y, x).
    dtype : numpy.dtype or None
        Of the images; older firmware does not tell.
    arm_date_ns : int or None
        ns since the epoch.
    tables : Mapping[str, ArrayBytes]
        ``"pixel_mask/threshold_1"``, ``"flatfield/threshold_1"``, ``"countrate_correction_lookup_table"``: as
        far as they were sent, and readable.
    user_data : object
        What was put into ``header_appendix``; None if nothing.
    fields : Mapping[str, object]
        Everything else, by its name.
    """

    series_id: int
    series_unique_id: str
    number_of_images: int | None
    channels: tuple[str, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any] | None
    arm_date_ns: int | None
    tables: Mapping[str, ArrayBytes] = field(default_factory=dict)
    user_data: object = None
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesImage:
    """One exposure, of all thresholds.

    Attributes
    ----------
    series_id, series_unique_id, image_id
        Which; images are counted from 0 over a series.
    data : Mapping[str, ArrayBytes]
        By channel. Checked: shapes, lengths, and what compressed bytes say of themselves.
    refused : Mapping[str, str]
        Channels whose array cannot be right, and why; another one is.
    series_date_ns : int or None
        When the series began, ns since the epoch.
    start_time, stop_time, real_time : (int, int) or None
        s since then, and how long the detector counted, as numerator and denominator.
    user_data : object
        What was put into ``image_appendix``.
    """

    series_id: int
    series_unique_id: str
    image_id: int
    data: Mapping[str, ArrayBytes]
    refused: Mapping[str, str] = field(default_factory=dict)
    series_date_ns: int | None = None
    start_time: tuple[int, int] | None = None
    stop_time: tuple[int, int] | None = None
    real_time: tuple[int, int] | None = None
    user_data: object = None

    @property
    def time_ns(self) -> int | None:
        """When the exposure began by the detector's clock, ns since the epoch; None if it does not tell."""
        if self.series_date_ns is None or self.start_time is None:
            return None
        numerator, denominator = self.start_time
        return self.series_date_ns + 10**9 * numerator // denominator


@dataclass(frozen=True, slots=True)
class SeriesEnd:
    """No image follows; how many there were is not told."""

    series_id: int
    series_unique_id: str


Message: TypeAlias = SeriesStart | SeriesImage | SeriesEnd


# Version 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LegacyImage:
    """One image of version 1; its times are ns since the detector was initialized, no date is told.

    Attributes
    ----------
    series_id, image_id
        Which.
    data : ArrayBytes
        ``"bslz4"``, ``"lz4 block"`` or ``"none"``.
    start_time, stop_time, real_time : int
        ns.
    appendix : object
        What was put into ``image_appendix``, if it was JSON.
    """

    series_id: int
    image_id: int
    data: ArrayBytes
    start_time: int
    stop_time: int
    real_time: int
    appendix: object = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LegacyStart:
    """The header of a series of version 1.

    Attributes
    ----------
    series_id : int
    header_detail : str
        ``"all"``, ``"basic"`` or ``"none"``.
    config : Mapping[str, object]
        The detector's configuration; empty without header.
    tables : Mapping[str, ArrayBytes]
        ``"flatfield"``, ``"pixelmask"``, ``"countrate_table"``, as far as they were sent.
    appendix : object
        What was put into ``header_appendix``; None if nothing.
    """

    series_id: int
    header_detail: str
    config: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, ArrayBytes] = field(default_factory=dict)
    appendix: object = None


@dataclass(frozen=True, slots=True)
class LegacyEnd:
    """No image of this series follows."""

    series_id: int


LegacyMessage: TypeAlias = LegacyStart | LegacyImage | LegacyEnd
