"""A peak over a motor's positions: its fit and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

N_STEPS = 60
"""Steps of the fit at the most."""


@dataclass(frozen=True)
class Peak:
    """A Gaussian on a constant.

    Attributes
    ----------
    centre, sigma : float
        In units of the position.
    height, base : float
    error : float
        Standard error of the centre.
    """

    centre: float
    sigma: float
    height: float
    base: float
    error: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return its values at positions."""
        return self.base + self.height * np.exp(-(((x - self.centre) / self.sigma) ** 2) / 2)


def fit_peak(x: np.ndarray, y: np.ndarray) -> Peak | None:
    """Fit a Gaussian on a constant by least squares (Levenberg-Marquardt).

    Parameters
    ----------
    x, y : ndarray, shape (n,)

    Returns
    -------
    Peak or None
        None for less than 5 points, or where the fit finds no peak inside of them.
    """
    x, y = np.asarray(x, "f8"), np.asarray(y, "f8")
    if len(x) < 5 or np.ptp(y) == 0:
        return None
    p = np.array([x[np.argmax(y)], np.ptp(x) / 4, np.ptp(y), y.min()])
    scale, damping = np.array([1, 1, p[2], p[2]]), 1e-2

    def residual(p):
        return Peak(*p, 0)(x) - y

    for _ in range(N_STEPS):
        g = np.exp(-(((x - p[0]) / p[1]) ** 2) / 2)
        slopes = p[2] * g * (x - p[0]) / p[1] ** 2
        jacobian = np.stack([slopes, slopes * (x - p[0]) / p[1], g, np.ones_like(x)], 1) * scale
        normal, down = jacobian.T @ jacobian, -jacobian.T @ residual(p)
        step = np.linalg.lstsq(normal + damping * np.diag(np.diag(normal)), down, rcond=None)[0] * scale
        if np.sum(residual(p + step) ** 2) < np.sum(residual(p) ** 2):
            p, damping = p + step, damping / 4
        else:
            damping *= 8
    variance = np.sum(residual(p) ** 2) / max(1, len(x) - 4)
    error = np.sqrt(np.linalg.pinv(normal)[0, 0] * variance)
    if not (x.min() <= p[0] <= x.max() and p[2] > 0 and np.isfinite(error)):
        return None
    return Peak(float(p[0]), abs(float(p[1])), float(p[2]), float(p[3]), float(error))


def draw_peaks(
    path: Path,
    x: np.ndarray,
    curves: Mapping[str, tuple[np.ndarray, str, Peak | None]],
    known: float,
    *,
    title: str,
) -> None:
    """Write a picture of measured points and their fits, one below the other.

    Parameters
    ----------
    x : ndarray
        Positions, mm.
    curves : mapping
        Name to values, their unit, and the fit.
    known : float
        Where the peak is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4))
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(len(curves), sharex=True)
    fine = np.linspace(x.min(), x.max(), 200)
    for axes, (name, (y, unit, fit)) in zip(np.atleast_1d(all_axes), curves.items()):
        axes.axvline(known, color="0.7", linestyle="--", label=f"the sample, {known:g} mm")
        axes.plot(x, y, "o", color="C0", label=name)
        if fit is not None:
            axes.plot(fine, fit(fine), color="C1", label=f"fit: {fit.centre:.3f} ± {fit.error:.3f} mm")
        axes.set_ylabel(f"{name} ({unit})")
        axes.legend(loc="upper right", fontsize=8)
    np.atleast_1d(all_axes)[-1].set_xlabel("motor (mm)")
    figure.suptitle(title)
    figure.subplots_adjust(left=0.15, right=0.97, top=0.93, bottom=0.08, hspace=0.1)
    figure.savefig(path, dpi=120)
