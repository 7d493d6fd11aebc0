"""What does each term of the forward model contribute? Switched off one at a time.

Claim: what is seen through pores, the beam's tilt and the way out of pores make the image (0.34 to
0.72 of the variance each); ways out other than straight give 0.09 to 0.11, the other terms 0.00 to
0.06 each on average, but up to 0.4 where they matter: solid that shines through, its closing and
its loss of direction in backscatter at 5 kV. Tables instead of laws matter for secondaries of a
specimen of two materials (0.9 and more in resin: the law has one yield for all solids).

Command: ``python experiments/ablation.py --recordings FOLDER [--electrons 100]`` with the
recordings of experiments/specimen_fidelity.py (10 minutes of one core). Each term is switched
off alone, all other numbers stay at their defaults, nothing is fitted but gain and offset of each
signal. Mean explained shares of the noise-free variance of eight specimens, and the mean drop
(345 s of one core)::

    tilt 0 degrees
    switched off                SE 1 kV   2 kV   5 kV   BSE 1 kV   2 kV   5 kV    drop
    full model                    0.984   0.976   0.962     0.984   0.981   0.958   0.000
    behind open pores             0.629   0.589   0.538     0.603   0.605   0.513   0.395
    behind solid                  0.981   0.966   0.936     0.983   0.959   0.822   0.033
    escape from pores             0.165   0.182   0.342     0.168   0.206   0.449   0.722
    ways other than straight      0.919   0.890   0.835     0.887   0.886   0.797   0.105
    - by way of walls             0.969   0.952   0.913     0.945   0.942   0.869   0.043
    - past overhangs              0.964   0.950   0.927     0.966   0.969   0.938   0.022
    closing                       0.980   0.968   0.949     0.984   0.970   0.893   0.017
    incidence                     0.974   0.961   0.937     0.983   0.981   0.959   0.008
    edges                         0.981   0.967   0.947     0.981   0.981   0.963   0.005
    sideways exit                 0.980   0.969   0.956     0.972   0.969   0.947   0.009
    direction loss                0.981   0.973   0.951     0.982   0.976   0.929   0.009
    secondaries by backscatter    0.961   0.935   0.881     0.984   0.981   0.958   0.024
    tables                        0.858   0.853   0.861     0.981   0.981   0.958   0.059
    tilt 38 degrees
    switched off                SE 1 kV   2 kV   5 kV   BSE 1 kV   2 kV   5 kV    drop
    full model                    0.973   0.970   0.952     0.975   0.971   0.952   0.000
    tilt                          0.689   0.640   0.564     0.660   0.615   0.405   0.370
    behind open pores             0.699   0.656   0.593     0.666   0.645   0.504   0.338
    behind solid                  0.970   0.960   0.938     0.974   0.955   0.817   0.030
    escape from pores             0.190   0.235   0.394     0.190   0.237   0.439   0.685
    ways other than straight      0.936   0.910   0.848     0.909   0.894   0.765   0.089
    - by way of walls             0.971   0.960   0.918     0.957   0.948   0.855   0.031
    - past overhangs              0.965   0.954   0.925     0.962   0.960   0.922   0.017
    closing                       0.970   0.961   0.945     0.974   0.959   0.886   0.016
    incidence                     0.967   0.959   0.925     0.974   0.971   0.953   0.007
    edges                         0.967   0.956   0.923     0.963   0.960   0.959   0.011
    sideways exit                 0.975   0.968   0.953     0.970   0.962   0.939   0.004
    direction loss                0.969   0.962   0.922     0.971   0.958   0.895   0.019
    secondaries by backscatter    0.968   0.947   0.900     0.975   0.971   0.952   0.013
    tables                        0.851   0.852   0.873     0.965   0.966   0.952   0.056

Edges make backscatter at 5 kV worse on average (0.005 at 0, 0.007 at 38 degrees). Largest drops:
behind solid 0.41 (electrode, BSE 5 kV), closing 0.21 and direction loss 0.12 (zirconia waves, BSE
5 kV), by way of walls 0.18 (copper fibres, BSE 5 kV), incidence 0.06 (copper fibres, SE 5 kV) and
secondaries by backscatter 0.10 (gold, one level, SE 5 kV), sideways exit 0.04 (electrode, BSE 5
kV).
"""

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from fidelity import render
from pictures import save
from specimen_fidelity import (
    CALIBRATION,
    FACES,
    OTHERS,
    TILTS,
    VOLTAGES,
    Recording,
    explained,
    record,
)

from fibsim import render as laws
from fibsim.instrument import Instrument, replace_by_name


def _all_seen(view, texture, c):
    """Every surface is seen in full: nothing stands in any way out."""
    ones = jnp.ones_like(view.face)
    return ones, ones, jnp.zeros_like(ones)


_render_slice = laws.render_slice


def _no_closing(scene, rho, near, height_nm, seen, seen_below, *args, **kwargs):
    """Solid that is laid over a pore does not close it."""
    open_ground = jnp.zeros_like(seen_below).at[:2].set(1.0)
    return _render_slice(scene, rho, near, height_nm, seen, open_ground, *args, **kwargs)


def _black_pores(scene, rho, near, height_nm, seen, *args, **kwargs):
    """Nothing is seen through a face's open area; solid is laid over what it is laid over."""
    face = jnp.sum(rho[:, 0], 0)
    dark = jnp.stack([face, face, jnp.zeros_like(face)])
    return _render_slice(scene, rho, near, height_nm, dark, *args, **kwargs)


def _opaque_solid(scene, rho, near, height_nm, seen, seen_below, texture, c, *args, **kwargs):
    """Bulk of its own phases lies under every slice's solid; only open area sees the depth."""
    fractions = jnp.mean(rho, 1)
    behind = 1.0 - jnp.sum(fractions, 0)
    emits = c.delta * (1.0 + c.se_by_bse * c.eta)
    mixed = tuple(
        behind * values + jnp.tensordot(bulk, fractions, 1)
        for values, bulk in zip(scene, (c.eta, emits), strict=True)
    )
    open_ground = jnp.zeros_like(seen_below).at[:2].set(1.0)
    return _render_slice(
        mixed, rho, near, height_nm, seen, open_ground, texture, c, *args, **kwargs
    )


def _numbers(**values: float) -> Callable[[Instrument], Instrument]:
    """Change numbers of `fibsim.instrument.Interaction`."""
    named = {f"interaction.{name}": jnp.asarray(value) for name, value in values.items()}
    return lambda instrument: replace_by_name(instrument, named)


def _without_tables(instrument: Instrument) -> Instrument:
    """Materials under names of which no table is shipped: the laws of `fibsim.electrons`."""

    def renamed(solid):
        return dataclasses.replace(solid, name=f"no table of {solid.name}")

    return dataclasses.replace(
        instrument,
        solid=renamed(instrument.solid),
        other_phases=tuple(renamed(phase) for phase in instrument.other_phases),
    )


def _upright(instrument: Instrument) -> Instrument:
    return replace_by_name(instrument, {"geometry.tilt_deg": jnp.asarray(0.0)})


@dataclasses.dataclass(frozen=True)
class Term:
    """How a term is switched off: by the instrument's numbers, by names of `fibsim.render`."""

    change: Callable[[Instrument], Instrument] = lambda instrument: instrument
    names: dict[str, object] = dataclasses.field(default_factory=dict)


_NO_WALLS = _numbers(wall_reflection=0.0, wall_transparency=0.01)
TERMS = {
    "full model": Term(),
    "tilt": Term(_upright),
    "behind open pores": Term(names=dict(render_slice=_black_pores)),
    "behind solid": Term(names=dict(render_slice=_opaque_solid, _DIRECTION_LOSS=0.0)),
    "escape from pores": Term(names=dict(shares_seen=_all_seen)),
    "ways other than straight": Term(_NO_WALLS, dict(_HIDDEN_WAYS=0.0)),
    "- by way of walls": Term(_NO_WALLS),
    "- past overhangs": Term(names=dict(_HIDDEN_WAYS=0.0)),
    "closing": Term(names=dict(render_slice=_no_closing)),
    "incidence": Term(_numbers(se_incidence=0.0, bse_incidence=0.0)),
    "edges": Term(_numbers(edge_gain=0.0, bse_facing=0.0)),
    "sideways exit": Term(_numbers(lateral_exit=0.0)),
    "direction loss": Term(names=dict(_DIRECTION_LOSS=0.0)),
    "secondaries by backscatter": Term(_numbers(se_by_bse=0.0)),
    "tables": Term(_without_tables),
}
# Columns of the picture: specimen, tilt, voltage, SE or BSE, face.
VIEWS = (
    ("gold, one level", 38.0, 1, 0, 1),
    ("gold, hierarchical", 38.0, 2, 1, 1),
)
SHOWN = (
    "full model",
    "tilt",
    "behind open pores",
    "behind solid",
    "escape from pores",
    "ways other than straight",
    "sideways exit",
)


@contextlib.contextmanager
def switched_off(names: dict[str, object]) -> Iterator[None]:
    """Replace names of `fibsim.render`, and forget what was compiled with the others."""
    kept = {name: getattr(laws, name) for name in names}
    try:
        for name, value in names.items():
            setattr(laws, name, value)
        if names:
            jax.clear_caches()
        yield
    finally:
        for name, value in kept.items():
            setattr(laws, name, value)
        if names:
            jax.clear_caches()


def fitted_image(recording: Recording, term: Term, view: tuple) -> np.ndarray:
    """The model's image of one face on the scale of the Monte Carlo's, gain and offset free."""
    _, tilt, voltage, signal, face = view
    images = render(
        recording.phases, term.change(recording.instrument[tilt]), FACES, recording.case.below
    )
    model, seen = (v[voltage, signal] for v in (images, recording.mean[tilt]))
    gain, offset = np.polyfit(model.ravel(), seen.ravel(), 1)
    return gain * model[face] + offset


def draw(recordings: dict[str, Recording], shares: dict, images: dict, path: Path) -> None:
    """Monte Carlo, full model and models with single terms off, above what they leave."""
    wide = len(SHOWN) + 1
    figure, axes = plt.subplots(
        2 * len(VIEWS), wide, figsize=(1.55 * wide, 3.5 * len(VIEWS)), layout="constrained"
    )
    for row, view in enumerate(VIEWS):
        name, tilt, voltage, signal, face = view
        recording = recordings[name]
        seen = recording.mean[tilt][voltage, signal, face]
        low, high = np.percentile(seen, (0.5, 99.5))
        above, under = axes[2 * row], axes[2 * row + 1]
        above[0].imshow(seen, cmap="gray", vmin=low, vmax=high)
        above[0].set_title("Monte Carlo", fontsize=8)
        under[0].axis("off")
        label = f"{name}\n{('SE', 'BSE')[signal]}, {VOLTAGES[voltage]:g} kV, {tilt:g}°"
        under[0].text(0.5, 0.5, label, ha="center", va="center", fontsize=8)
        for column, term in enumerate(SHOWN, 1):
            image = images[term, view]
            above[column].imshow(image, cmap="gray", vmin=low, vmax=high)
            title = term if term == "full model" else f"{term} off"
            share = shares[term][name, tilt][voltage, signal]
            above[column].set_title(f"{title}\n{share:.3f}", fontsize=7)
            span = (high - low) / 2
            last = under[column].imshow(image - seen, cmap="RdBu_r", vmin=-span, vmax=span)
        bar = figure.colorbar(last, ax=under.tolist(), shrink=0.8, pad=0.01)
        bar.set_label("model - Monte Carlo,\nper beam electron", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[])
    save(figure, path, dpi=65, colours=64)


def table(shares: dict[str, dict[tuple[str, float], np.ndarray]], tilt: float) -> None:
    """Mean explained shares over the specimens, and what is lost against the full model."""
    print(f"tilt {tilt:g} degrees")
    kv = "  ".join(f"{v:g} kV " for v in VOLTAGES)
    print(f"{'switched off':27s} SE {kv}  BSE {kv}   drop  largest drop")
    full = {key: value for key, value in shares["full model"].items() if key[1] == tilt}
    for term, found in shares.items():
        if not any(key in found for key in full):
            continue
        mean = np.mean([found[key] for key in full], 0)
        drops = {key: full[key] - found[key] for key in full}
        drop = np.mean(list(drops.values()))
        where = max(drops, key=lambda key: drops[key].max())
        voltage, signal = np.unravel_index(drops[where].argmax(), drops[where].shape)
        cells = "   ".join("  ".join(f"{v:6.3f}" for v in mean[:, s]) for s in (0, 1))
        line = f"{term:27s} {cells}  {drop:6.3f}"
        if term != "full model":
            worst = f"{where[0]}, {('SE', 'BSE')[signal]} {VOLTAGES[voltage]:g} kV"
            line += f"  {drops[where].max():.3f} ({worst})"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--electrons", type=int, default=100)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--recordings", type=Path, default=Path("specimen_fidelity"))
    parser.add_argument("--only", nargs="+", choices=TERMS, default=list(TERMS))
    parser.add_argument("--figure", type=Path, help="save the picture (PNG) here")
    options = parser.parse_args()
    options.recordings.mkdir(exist_ok=True)
    start = time.perf_counter()
    recordings = {
        name: record(name, case, options.pixels, options.electrons, options.recordings)
        for name, case in (CALIBRATION | OTHERS).items()
    }
    shares, images = {}, {}
    names = dict.fromkeys(["full model", *options.only])
    # What changes numbers only shares one compilation.
    for name in sorted(names, key=lambda name: bool(TERMS[name].names)):
        term = TERMS[name]
        with switched_off(term.names):
            shares[name] = {
                (specimen, tilt): explained(recording, tilt, term.change)
                for specimen, recording in recordings.items()
                for tilt in (TILTS[1:] if name == "tilt" else TILTS)
            }
            if options.figure and name in SHOWN:
                images |= {
                    (name, view): fitted_image(recordings[view[0]], term, view) for view in VIEWS
                }
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    for tilt in TILTS:
        table({name: shares[name] for name in names}, tilt)
    print(f"{time.perf_counter() - start:.0f} s")
    if options.figure:
        draw(recordings, shares, images, options.figure)


if __name__ == "__main__":
    main()
