"""The figures of docs/physics.md: the forward model beside Monte Carlo, measurement, other codes.

Claim: beside every law stands what it was measured against. The forward model's eta and depths are
EPQ's within 3 % in gold from 1 keV on; its films differ from EPQ's by 0.01 to 0.03 rms; floors of
round pores are right within 0.1 of the face down to depths of three radii, and too bright below.

Command: ``python experiments/physics_figures.py --recordings FOLDER [--electrons 100]`` with the
recordings of experiments/specimen_fidelity.py and the shared data (``../shared/data/physics``);
about 4 minutes of one core. ``--only NAME ...`` makes some of them.

Measured:

* Gold films against EPQ at 1, 2, 5 keV: rms 0.018, 0.021, 0.027 with the default range scale 0.77,
  0.011, 0.020, 0.021 with 1; largest 0.048 (2 keV, 2 nm, scale 0.77).
* Median depth in gold at 1, 2, 5 keV: EPQ 1.35, 2.90, 9.56, shipped table 1.32, 2.88, 9.65 nm.
* Middle of the floor of round pores in gold at 2 keV, relative to the face, BSE (SE), by depth in
  radii, r = 20 nm; the Monte Carlo's error is 0.01 to 0.03. The same at r = 12 and 36 nm::

      depth / r     1             2             3             5             8
      model         0.69 (0.61)   0.44 (0.34)   0.32 (0.24)   0.21 (0.15)   0.15 (0.11)
      Monte Carlo   0.71 (0.56)   0.40 (0.30)   0.25 (0.22)   0.10 (0.09)   0.06 (0.03)

  EPQ: 0.69, 0.31, 0.11 at 1, 2.5, 5 radii (BSE). What walls reflect falls too slowly with depth.
"""

import argparse
import csv
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from fidelity import PIXEL_NM, PROBE_NM, SLICE_NM, VOXEL_NM, changed, render
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

from fibsim import electrons
from fibsim.interaction import bulk_yields
from fibsim.interaction_table import evaluate, interaction_table
from fibsim.materials import composition, material
from fibsim.montecarlo import image_yields
from fibsim.presets import make_instrument

ELEMENTS = ("C", "Al", "Si", "Cu", "Au")
CLEAN = ("ElGomati&Assad", "Bronstein&Fraiman")
# NIST EPQ: eta of the middle of the floor of a round pore of 20 nm radius in gold at 2 keV, by its
# depth (0: the face).
EPQ_PORE = {0.0: 0.45, 20.0: 0.31, 50.0: 0.14, 100.0: 0.05}
GOAL, HELD_OUT_GOAL = 0.95, 0.90
TILT, FACE = 38.0, 1
SHOWN = ((1, 0), (2, 1))  # voltage, SE or BSE
PORE_RADII_NM = (12.0, 20.0, 36.0)
PORE_DEPTH_NM, PORE_FIELD_NM, PORE_KEV = 160.0, 160.0, 2.0


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def images(recordings: dict[str, Recording], folder: Path) -> None:
    """Monte Carlo above forward model for every specimen, two signals."""
    figure, axes = plt.subplots(4, len(recordings), figsize=(10.5, 6.0), layout="constrained")
    for column, (name, recording) in enumerate(recordings.items()):
        model = render(recording.phases, recording.instrument[TILT], FACES, recording.case.below)
        share = explained(recording, TILT, changed({}))
        for number, (v, s) in enumerate(SHOWN):
            seen = recording.mean[TILT][v, s]
            gain, offset = np.polyfit(model[v, s].ravel(), seen.ravel(), 1)
            low, high = np.percentile(seen[FACE], (0.5, 99.5))
            upper, lower = axes[2 * number, column], axes[2 * number + 1, column]
            upper.imshow(seen[FACE], cmap="gray", vmin=low, vmax=high)
            lower.imshow(gain * model[v, s, FACE] + offset, cmap="gray", vmin=low, vmax=high)
            lower.set_title(f"{share[v, s]:.3f}", fontsize=8, pad=2)
            if number == 0:
                upper.set_title(name.replace(", ", ",\n").replace(" in ", "\nin "), fontsize=8)
    for number, (v, s) in enumerate(SHOWN):
        signal = f"{('SE', 'BSE')[s]}, {VOLTAGES[v]:g} kV"
        axes[2 * number, 0].set_ylabel(f"{signal}\nMonte Carlo", fontsize=8)
        axes[2 * number + 1, 0].set_ylabel("forward model", fontsize=8)
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[])
    size = next(iter(recordings.values())).mean[TILT].shape[-1] * PIXEL_NM
    figure.suptitle(
        f"{size:g} nm wide, tilt {TILT:g}°; above the models: explained share of variance",
        fontsize=9,
    )
    save(figure, folder / "specimens.png", dpi=80, colours=24)


def scores(recordings: dict[str, Recording], folder: Path) -> None:
    """Explained shares of all signals of every specimen."""
    figure, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    names = list(recordings)
    for row, name in enumerate(names):
        colour = "tab:blue" if name in CALIBRATION else "tab:orange"
        for up, tilt in zip((0.14, -0.14), TILTS, strict=True):
            share = explained(recordings[name], tilt, changed({}))
            for s, marker in enumerate("o^"):
                ax.scatter(
                    share[:, s],
                    row + up + np.asarray([-0.07, 0.0, 0.07]),
                    s=(14, 26, 42),
                    marker=marker,
                    facecolors=colour if tilt == 0 else "none",
                    edgecolors=colour,
                    linewidths=0.9,
                )
    for goal, style in ((GOAL, "--"), (HELD_OUT_GOAL, ":")):
        ax.axvline(goal, color="0.4", linestyle=style, linewidth=1)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    ax.set_xlabel("explained share of the noise-free variance (1 = all)")
    for text, settings in (
        ("calibrated on", dict(color="tab:blue", marker="s")),
        ("held out", dict(color="tab:orange", marker="s")),
        ("SE", dict(color="0.3", marker="o")),
        ("BSE", dict(color="0.3", marker="^")),
        ("0°", dict(color="0.3", marker="D")),
        ("38°", dict(color="0.3", marker="D", markerfacecolor="none")),
    ):
        ax.plot([], [], linestyle="none", label=text, **settings)
    for goal, style in ((GOAL, "--"), (HELD_OUT_GOAL, ":")):
        ax.plot([], [], color="0.4", linestyle=style, label=f"goal {goal:.2f}")
    ax.set_title("small, middle, large marks: 1, 2, 5 kV", fontsize=9)
    figure.legend(loc="outside right upper", fontsize=8)
    ax.grid(axis="x", alpha=0.3)
    save(figure, folder / "explained.png")


def backscatter(data: Path, folder: Path) -> None:
    """eta of bulk: shipped tables, measured sets, other codes."""
    energies = np.geomspace(0.5, 30.0, 60)
    measured = rows(data / "eta_measured.csv")
    epq = [r for r in rows(data / "epq_eta_bulk_combined.csv") if float(r["tilt_deg"]) == 0]
    penred = [
        r for n in ("penred_eta_bulk", "penred_eta_bulkother") for r in rows(data / f"{n}.csv")
    ]
    penred = [r for r in penred if float(r["tilt_deg"]) == 0]
    figure, axes = plt.subplots(2, 3, figsize=(9, 5.6), layout="constrained", sharex=True)
    for ax, element in zip(axes.ravel(), ELEMENTS, strict=False):
        clean = [r for r in measured if r["element"] == element and r["source"].startswith(CLEAN)]
        rest = [
            r for r in measured if r["element"] == element and not r["source"].startswith(CLEAN)
        ]
        for points, style in (
            (rest, dict(color="0.75", marker=".", label="measured, other sets")),
            (clean, dict(color="k", marker="+", label="measured, clean surfaces")),
        ):
            ax.plot(*columns(points, "energy_keV", "eta"), linestyle="none", **style)
        ax.plot(energies, evaluate(interaction_table(element), energies).eta, label="shipped table")
        for code, key, style in (
            (epq, "eta", dict(marker="s", label="EPQ")),
            (penred, "eta_primary", dict(marker="^", label="PenRed, beam electrons")),
            (penred, "eta_all_gt50eV", dict(marker="v", label="PenRed, all above 50 eV")),
        ):
            points = [r for r in code if r["material"] == element]
            x, y = columns(points, "E0_keV", key)
            ax.plot(x, y, linestyle="none", markerfacecolor="none", markersize=5, **style)
        ax.set(title=element, xscale="log", xlim=(0.4, 35), ylim=(0, None))
        ax.set_xticks([0.5, 1, 2, 5, 10, 30], ["0.5", "1", "2", "5", "10", "30"])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[1, 2].axis("off")
    axes[1, 2].legend(*axes[0, 0].get_legend_handles_labels(), loc="center", fontsize=9)
    axes[0, 2].tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("η, per beam electron")
    for ax in (*axes[1, :2], axes[0, 2]):
        ax.set_xlabel("beam energy / keV")
    save(figure, folder / "eta.png")


def columns(table: list[dict[str, str]], *names: str) -> list[list[float]]:
    return [[float(row[name]) for row in table] for name in names]


def films(data: Path, folder: Path) -> None:
    """Backscatter of gold films, and the median depth in bulk."""
    gold, table = material("Au"), interaction_table("Au")
    scale = float(make_instrument(beam_kev=VOLTAGES).interaction.range_scale)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    thickness, points = np.geomspace(1.0, 100.0, 80), rows(data / "epq_film_Au.csv")
    for kev, colour in zip(VOLTAGES, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        at = evaluate(table, kev)

        def film(t, scale, at=at):
            return float(at.eta) * (1.0 - 0.5 ** (t / (scale * float(at.depth_nm))))

        mine = [r for r in points if float(r["E0_keV"]) == kev]
        t, seen = (np.asarray(v) for v in columns(mine, "thickness_nm", "backscattered"))
        left.plot(t, seen, "o", color=colour, label=f"EPQ, {kev:g} keV")
        left.plot(thickness, film(thickness, 1.0), ":", color=colour)
        left.plot(thickness, film(thickness, scale), "-", color=colour)
        for s in (1.0, scale):
            error = film(t, s) - seen
            print(
                f"gold films, {kev:g} keV, range scale {s:g}: rms {np.sqrt(np.mean(error**2)):.3f},"
                f" largest {error[np.abs(error).argmax()]:+.3f} at {t[np.abs(error).argmax()]:g} nm"
            )
    left.plot([], [], "-", color="0.4", label=f"model, range scale {scale:g}")
    left.plot([], [], ":", color="0.4", label="model, range scale 1")
    left.set(xscale="log", xlabel="thickness of a gold film / nm", ylim=(0, 0.5))
    left.set_ylabel("backscattered, per beam electron")
    left.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    energies = np.geomspace(0.5, 30.0, 80)
    for solid, colour in (("Au", "tab:blue"), ("Cu", "tab:orange"), ("C", "tab:green")):
        depth = evaluate(interaction_table(solid), energies).depth_nm
        right.plot(energies, depth, "-", color=colour, label=f"{solid}, shipped table")
        law = electrons.backscatter_depth_nm(energies, material(solid))
        right.plot(energies, law, "--", color=colour)
    epq = columns(rows(data / "epq_bulkAu_hist_summary.csv"), "E0_keV", "depth_median_nm")
    right.plot(*epq, "ko", label="Au, EPQ")
    right.plot([], [], "--", color="0.4", label="closed-form law")
    for kev, depth in zip(*epq, strict=True):
        ours = float(evaluate(table, kev).depth_nm)
        law = float(electrons.backscatter_depth_nm(jnp.asarray(kev), gold))
        print(f"median depth in gold, {kev:g} keV: EPQ {depth}, table {ours:.2f}, law {law:.2f} nm")
    right.set(xscale="log", yscale="log", xlabel="beam energy / keV")
    right.set_ylabel("median depth of backscattered electrons / nm")
    right.set_xticks([0.5, 1, 2, 5, 10, 30], ["0.5", "1", "2", "5", "10", "30"])
    for ax in (left, right):
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    save(figure, folder / "films.png")


def round_pore(radius_nm: float) -> np.ndarray:
    """Whether a voxel is solid: a round pore in the middle of a field of gold."""
    across, deep = round(PORE_FIELD_NM / VOXEL_NM), round(PORE_DEPTH_NM / VOXEL_NM)
    y, x = (np.mgrid[:across, :across] + 0.5 - across / 2) * VOXEL_NM
    solid = np.ones((2 * deep, across, across), bool)
    solid[:deep, y**2 + x**2 < radius_nm**2] = False
    return solid


def middle(image: np.ndarray) -> np.ndarray:
    """Mean of the four pixels in the middle of the field, 8 nm wide."""
    centre = image.shape[-1] // 2
    return image[..., centre - 1 : centre + 1, centre - 1 : centre + 1].mean((-2, -1))


def pore_floors(folder: Path, count: int = 400) -> None:
    """Signal of the floors of round pores against their depth, relative to the face."""
    slices = round(PORE_DEPTH_NM / SLICE_NM)
    depths = PORE_DEPTH_NM - SLICE_NM * np.arange(slices)
    instrument = make_instrument(beam_kev=(PORE_KEV,), pixel_nm=VOXEL_NM, tilt_deg=0.0, solid="Au")
    flat = bulk_yields(instrument)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
    colours = ("tab:blue", "tab:orange", "tab:green")
    for number, (radius, colour) in enumerate(zip(PORE_RADII_NM, colours, strict=True)):
        solid = round_pore(radius)
        model = render(jnp.asarray(solid[None], jnp.float32), instrument, range(slices), 15)
        chosen = slice(0, slices, 2)
        run = image_yields(
            solid.astype(np.uint8),
            (None, composition("Au")),
            voxel_nm=(VOXEL_NM,) * 3,
            beam_kev=PORE_KEV,
            faces_nm=list(PORE_DEPTH_NM - depths[chosen]),
            pixel_nm=PIXEL_NM,
            electrons=count,
            key=jax.random.key(number),
            probe_nm=PROBE_NM,
        )
        # Faces far from the pore: the corner of the field.
        bulk = run.mean[:, :, :8, :8].mean((1, 2, 3))
        for s, (ax, level) in enumerate(
            zip(axes, (flat.secondary[0], flat.backscatter[0]), strict=True)
        ):
            ours = middle(model[0, s]) / float(level)
            truth = middle(run.mean[s]) / bulk[s]
            error = np.sqrt(middle(run.error[s] ** 2) / 4) / bulk[s]
            ax.plot(depths / radius, ours, color=colour, label=f"model, r = {radius:g} nm")
            ax.errorbar(
                depths[chosen] / radius, truth, error, fmt="o", color=colour, markersize=4,
                markerfacecolor="none", label=f"Monte Carlo, r = {radius:g} nm",
            )  # fmt: skip
            print(
                f"pore floor, r = {radius:g} nm, {('SE', 'BSE')[s]}: "
                + ", ".join(
                    f"{h:g} nm {m:.2f} ({t:.2f} ± {e:.2f})"
                    for h, m, t, e in zip(depths[chosen], ours[chosen], truth, error, strict=True)
                )
            )
    ratio = np.linspace(0.0, 8.0, 100)
    level = EPQ_PORE[0.0]
    deep = [h for h in EPQ_PORE if h > 0]
    axes[1].plot(
        [h / 20.0 for h in deep], [EPQ_PORE[h] / level for h in deep], "k*", markersize=9,
        label="EPQ, r = 20 nm",
    )  # fmt: skip
    for ax, name in zip(axes, ("SE", "BSE"), strict=True):
        ax.plot(ratio, 1 / (1 + ratio**2), color="0.6", linestyle=":", label="r² / (r² + h²)")
        ax.set(xlabel="depth h / radius r", xlim=(0, 8), ylim=(0, 1.05))
        ax.set_title(f"{name}, gold, {PORE_KEV:g} keV", fontsize=10)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("middle of the floor / milled face")
    axes[1].legend(fontsize=8)
    save(figure, folder / "pore_floor.png")


FIGURES = ("images", "scores", "backscatter", "films", "pores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--electrons", type=int, default=100)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--recordings", type=Path, default=Path("specimen_fidelity"))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "physics")
    parser.add_argument("--folder", type=Path, default=root / "docs" / "figures")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=FIGURES)
    options = parser.parse_args()
    start = time.perf_counter()
    if {"backscatter", "films"} & set(options.only) and not options.data.is_dir():
        raise SystemExit(f"{options.data} is absent; give the folder with --data")
    if {"images", "scores"} & set(options.only):
        options.recordings.mkdir(exist_ok=True)
        recordings = {
            name: record(name, case, options.pixels, options.electrons, options.recordings)
            for name, case in (CALIBRATION | OTHERS).items()
        }
        for name, draw in (("images", images), ("scores", scores)):
            if name in options.only:
                draw(recordings, options.folder)
    if "backscatter" in options.only:
        backscatter(options.data, options.folder)
    if "films" in options.only:
        films(options.data, options.folder)
    if "pores" in options.only:
        pore_floors(options.folder)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
