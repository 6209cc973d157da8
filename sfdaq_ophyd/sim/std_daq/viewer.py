"""The file viewer of dialect D2: metadata and pictures of logged files."""

from __future__ import annotations

import os

import h5py
import numpy as np

from .driver import ServiceError
from .folders import is_below
from .jpeg import grey_picture, jpeg
from .picture import Pictures
from .service import Service


def pictures_of(service: Service) -> Pictures:
    """Return the detector's pictures as the stored configuration has it."""
    config = service.config()[0]
    shape = (config["image_pixel_height"], config["image_pixel_width"])
    return Pictures(config["detector_name"], shape, config["bit_depth"], service.settings.seed)


class FileViewer:
    """Look into the files of the log; ``live`` is what the detector shows now."""

    def __init__(self, service: Service):
        self._service = service

    def metadata(self, log_id: str) -> dict:
        """Return size, shape and dtype of a logged file."""
        path = self._service.log_entry(log_id)["info"]["output_file"]
        with self._open(path) as file:
            group = next(iter(file))
            data = file[group]["data"]
            return {
                "filename": path,
                "file_size": os.path.getsize(file.filename),
                "log_id": log_id,
                "dataset_name": group,
                "n_images": data.shape[0],
                "image_pixel_height": data.shape[1],
                "image_pixel_width": data.shape[2],
                "dtype": str(data.dtype),
            }

    def picture(self, log_id: str, index: int) -> bytes:
        """Return one image as JPEG; a negative index counts from the end."""
        if log_id == "live":
            pictures = pictures_of(self._service)
            frame = np.empty(pictures.shape, pictures.dtype)
            number = self._service.source.n_images
            pictures.fill(frame, number, number)
            return jpeg(grey_picture(frame))
        path = self._service.log_entry(log_id)["info"]["output_file"]
        with self._open(path) as file:
            data = next(iter(file.values()))["data"]
            if not -data.shape[0] <= index < data.shape[0]:
                raise ServiceError(f"Index ({index}) out of range for (0-{data.shape[0] - 1})")
            return jpeg(grey_picture(data[index]))

    def _open(self, path: str) -> h5py.File:
        local = self._service.folders.local(path)
        if not os.path.exists(local) or not is_below(local, self._service.folders.writable):
            raise FileNotFoundError(2, "No such file or directory", path)
        return h5py.File(local, "r")
