"""The figure of directional curves: two-point correlation and lineal path."""

from collections.abc import Mapping

import numpy as np

from fibnet.correlation import Correlations, Curve
from fibnet.report import style
from fibnet.report.style import Picture

__all__ = ["correlation_figure"]

_PANELS = {
    "two_point": ("Two-point correlation of the solid", "S₂"),
    "lineal_solid": ("Lineal path of the solid", "L"),
    "lineal_pore": ("Lineal path of the pores", "L"),
}
# Further out the curves are flat.
_HALF_LENGTHS_SHOWN = 10


@style.drawn
def correlation_figure(volumes: Mapping[str, Correlations]) -> Picture:
    """Two-point correlation and lineal paths along z and in the plane; the first is the result.

    Of a single slice there are curves in the plane only.
    """
    figure = style.new_figure(style.PAGE_INCHES, 2.8)
    panels = figure.subplots(1, 3, gridspec_kw={"wspace": 0.28})
    result, *_ = volumes.values()
    for axes, (name, (title, label)) in zip(panels, _PANELS.items(), strict=True):
        for index, (volume, found) in enumerate(volumes.items()):
            colour = style.ACCENT if index == 0 else style.INK
            width = 1.8 if index == 0 else 1.0
            curves = getattr(found, name)
            if "z" in curves:
                z = curves["z"]
                axes.plot(z.distance_nm, z.value, color=colour, lw=width, label=f"{volume}, z")
            plane = _in_plane(curves)
            axes.plot(plane.distance_nm, plane.value, color=colour, lw=width, ls="--",
                      label=f"{volume}, in-plane")  # fmt: skip
        own = result.anisotropy.get(name)
        if own is not None and np.isfinite(own.ratio):
            title += f"\nz over in-plane {own.ratio:.3f} ± {own.standard_error:.3f}"
        axes.set(title=title, xlabel="Distance (nm)", ylabel=label, xlim=(0, _reach(result, name)))
        axes.set_ylim(0, None)
    panels[0].axhline(result.solid_fraction**2, color=style.MUTED, lw=0.8, ls=":")
    panels[-1].legend(loc="upper right")
    return Picture(
        name="correlation",
        caption="Two-point correlation: the chance that two points at a distance are both solid "
        "(dotted: squared solid fraction). Lineal path: the chance that a whole segment of that "
        "length lies in the phase. Without a preferred direction in the specimen the curves along "
        "z and in the plane of the slices agree; shine-through lengthens them along z. The ratio, "
        "of the result, is that of the distances at which they have fallen to half.",
        png=style.to_png(figure),
    )


def _in_plane(curves: Mapping[str, Curve]) -> Curve:
    """The mean of the curves along y and x, on the distances along x, as far as both go."""
    x, y = curves["x"], curves["y"]
    common = x.distance_nm <= y.distance_nm[-1]
    distance = x.distance_nm[common]
    return Curve(distance, 0.5 * (x.value[common] + np.interp(distance, y.distance_nm, y.value)))


def _reach(found: Correlations, name: str) -> float:
    """How far the curves are worth showing, in nm."""
    curves = getattr(found, name)
    longest = max(float(curve.distance_nm[-1]) for curve in curves.values())
    own = found.anisotropy.get(name)
    half = float(np.nanmax([0.0, *own.half_length_nm])) if own is not None else 0.0
    return min(longest, _HALF_LENGTHS_SHOWN * half) if half > 0 else longest
