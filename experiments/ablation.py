"""What does each term of the forward model contribute? Switched off one at a time.

Claim: what is seen through pores, the beam's tilt and the way out of pores make the image (0.34 to
0.64 of the variance each); ways out other than straight give 0.10 to 0.11, the other terms 0.00 to
0.06 each on average, but up to 0.4 where they matter: solid that shines through, its closing and
its loss of direction in backscatter at 5 kV. Tables instead of laws matter for secondaries of a
specimen of two materials (0.9 and more in resin: the law has one yield for all solids).

Command: ``python experiments/ablation.py --recordings FOLDER [--electrons 100]`` with the
recordings of experiments/specimen_fidelity.py (10 minutes of one core). Each term is switched
off alone, all other numbers stay at their defaults, nothing is fitted but gain and offset of each
signal. Mean explained shares of the noise-free variance of eight specimens, and the mean drop
(509 s on a busy core)::

    tilt 0 degrees
    switched off                SE 1 kV   2 kV   5 kV   BSE 1 kV   2 kV   5 kV    drop
    full model                   0.984   0.974   0.958    0.979   0.975   0.955   0.000
    behind open pores            0.629   0.588   0.535    0.604   0.602   0.505   0.394
    behind solid                 0.982   0.965   0.931    0.979   0.954   0.816   0.033
    escape from pores            0.199   0.246   0.450    0.254   0.320   0.505   0.642
    ways other than straight     0.918   0.885   0.825    0.880   0.874   0.779   0.111
    - by way of walls            0.967   0.946   0.901    0.936   0.928   0.849   0.050
    - past overhangs             0.962   0.947   0.923    0.959   0.962   0.936   0.023
    closing                      0.982   0.967   0.945    0.979   0.966   0.893   0.016
    incidence                    0.970   0.952   0.925    0.977   0.974   0.956   0.012
    edges                        0.981   0.965   0.946    0.976   0.974   0.958   0.004
    sideways exit                0.981   0.969   0.954    0.975   0.967   0.944   0.006
    direction loss               0.983   0.973   0.953    0.979   0.976   0.930   0.005
    secondaries by backscatter   0.962   0.934   0.874    0.979   0.975   0.955   0.024
    tables                       0.861   0.851   0.863    0.977   0.975   0.954   0.057
    tilt 38 degrees
    switched off                SE 1 kV   2 kV   5 kV   BSE 1 kV   2 kV   5 kV    drop
    full model                   0.974   0.969   0.951    0.974   0.967   0.945   0.000
    tilt                         0.691   0.645   0.573    0.668   0.623   0.404   0.363
    behind open pores            0.698   0.654   0.589    0.666   0.642   0.495   0.340
    behind solid                 0.972   0.960   0.935    0.975   0.953   0.809   0.030
    escape from pores            0.332   0.397   0.532    0.403   0.440   0.525   0.525
    ways other than straight     0.934   0.904   0.840    0.904   0.881   0.743   0.096
    - by way of walls            0.970   0.954   0.910    0.952   0.935   0.832   0.038
    - past overhangs             0.964   0.952   0.924    0.959   0.955   0.917   0.018
    closing                      0.972   0.962   0.944    0.974   0.958   0.884   0.015
    incidence                    0.967   0.956   0.920    0.972   0.967   0.947   0.009
    edges                        0.969   0.956   0.923    0.965   0.959   0.954   0.009
    sideways exit                0.973   0.965   0.952    0.970   0.956   0.934   0.005
    direction loss               0.972   0.964   0.927    0.973   0.960   0.891   0.016
    secondaries by backscatter   0.968   0.945   0.893    0.974   0.967   0.945   0.015
    tables                       0.853   0.853   0.880    0.968   0.964   0.945   0.053

Edges make backscatter at 5 kV worse on average (0.003 at 0, 0.009 at 38 degrees). Largest drops:
behind solid 0.41 (electrode, BSE 5 kV), closing 0.20 and direction loss 0.13 (zirconia waves, BSE
5 kV), by way of walls 0.20 (copper fibres, BSE 5 kV), incidence 0.06 and secondaries by
backscatter 0.11 (copper fibres, SE 5 kV), sideways exit 0.04 (electrode, BSE 5 kV).
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
