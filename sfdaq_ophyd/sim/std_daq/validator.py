"""The file validator: after each logged acquisition a report, and five pictures as a GIF."""

from __future__ import annotations

import io
import json

import h5py
import numpy as np

from .jpeg import grey_picture
from .store import LOG, Store


def validate(store: Store, log_id: str, path: str) -> None:
    """Read the file, append the report to ``daq:log:<log_id>`` and store the GIF."""
    gif = b""
    try:
        with h5py.File(path, "r") as file:
            group = next(iter(file.values()))
            image_id = group["image_id"][:]
            n_images = group["data"].shape[0]
            rows = np.linspace(0, n_images - 1, min(5, n_images)).astype(int)
            pictures = [grey_picture(group["data"][row]) for row in rows]
        output = io.BytesIO()
        pictures[0].save(output, "GIF", save_all=True, append_images=pictures[1:], duration=500)
        gif = output.getvalue()
        report = {
            "readable": True,
            "n_images": n_images,
            "image_id_range": [int(image_id[0]), int(image_id[-1])],
        }
    except (OSError, KeyError, StopIteration, IndexError):
        report = {"readable": False, "n_images": 0, "image_id_range": [0, 0]}
    record = {"report_type": "file_validator", "report": report}
    store.redis.xadd(f"{LOG}:{log_id}", {"json": json.dumps(record)})
    store.redis.set(f"daq:gif:{log_id}", gif)
