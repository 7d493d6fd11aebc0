"""Does the Monte Carlo backscatter as clean surfaces do, and has its secondary yield their shape?

Question 1: does eta of C, Al, Si, Cu and Au from 0.5 to 30 keV lie inside the spread of the
measured values (below 6 keV those of clean surfaces: El Gomati & Assad, Bronstein & Fraiman), with
beam electrons only and with all above 50 eV (``fast_secondaries``), which is what they count?

Question 2: how far is eta of beam electrons from that of other codes, where these agree?

Question 3: does the secondary yield of C, Al, Si, Cu and Au peak where measured ones do, and fall
from the peak as they do? Heights are no question: measured sets differ by a factor of two.

Command: ``python experiments/electron_yields.py`` (about 4 minutes on one core; ``--only eta``: 2).
Needs the shared data (``../shared/data/physics``). A measurement counts for an energy within 15 %
of it; the spread is theirs, widened by 5 %, their usual uncertainty.

Measured, question 1: beam electrons at 31 of 36 points, all above 50 eV at 27. (Until the table's
spelling of El Gomati & Assad was heeded, one set below 6 keV: 21 and 22 of 31.)

* Aluminium: fast secondaries bring in 2 and 5 keV, all but 0.5 keV (3 % above the single set).
* Silicon: they bring in 1 keV, and 2 and 3 keV come out 2 and 5 % above the single set.
* Copper: inside both ways.
* Carbon: 0.5 keV stays 18 % below the single set, 5 keV 25 % above the other; where both measured,
  they differ by 40 to 75 %. No carbon model lies inside both.
* Gold: inside with beam electrons only, and with all above 50 eV 12, 12, 8 and 8 % above at 1, 2,
  3 and 5 keV. The gain itself is PenRed's within 4 % (tests/test_fast_secondaries.py), so it is
  eta of beam electrons that is too high for it: EPQ's is the same, PenRed's 17, 10 and 2 % lower
  at 1, 2 and 5 keV. Its 4f level (121 instead of 86 eV) matters for 1 % only. A stopping power 25 %
  above that of Joy & Luo gives 0.435, 0.461, 0.467 at 1, 2, 5 keV, inside; nothing here measures
  whether that is its cause, so it stays.

Question 2: the goal of 5 % from the mean of EPQ and PenRed holds at all 13 points where these agree
within 5 %: C -5 (5 keV, its statistical error 2.5), 0 %; Si -1 to 2 %; Cu -3 to 4 %; Au 0 to 2 %.
They do not agree for carbon at 1 to 3 and from 10 keV on, silicon from 10 keV on (EPQ too high),
copper up to 2 keV and gold up to 3 keV. Gold at 0.5, 1, 2, 3 keV: Mott 0.313, 0.425, 0.449, 0.449;
Browning 0.291, 0.425, 0.473, 0.479; EPQ 0.293, 0.419, 0.451, 0.451; PenRed 0.222, 0.352, 0.402,
0.418. So Mott is EPQ's within 1.4 % from 1 keV on and 7 % above at 0.5 keV, Browning within 1.5 %
up to 1 keV and 5 to 6 % above from 2 keV on, and both are 20 % and more above PenRed up to 1 keV.

Question 3: 5 of the 8 ratios to the peak that measured sets have at 2, 5, 10, 20 keV lie within
10 % of their spread, without and with fast secondaries. Gold peaks at 0.57 keV (sets: 0.50, 0.86),
ratios 0.73, 0.44, 0.27, 0.16 (sets: 0.46-0.86, 0.28-0.48, 0.30, 0.22; the set above 5 keV begins at
1 keV, which understates its peak and overstates its ratios, but also its fall from 5 to 20 keV,
0.46, is slower than our 0.36); copper at 0.39 keV (0.50, 0.72), 0.59 at 2 keV (0.53-0.75); silicon
at 0.33 keV (at or below 0.20), 0.40 (0.36). Not inside: aluminium, at 0.25 keV (0.34), 0.34 at
2 keV (0.47); gold at 10 keV, at the bound, and at 20 keV. No set of carbon is at hand: it peaks at
0.28 keV. Fast secondaries do not help: ratios get smaller, gold's 0.72, 0.41, 0.25, 0.13,
aluminium's 0.32 at 2 keV. They carry loss sideways and down from the surface, and nothing comes
back from outside, the more so the more energy they have, as in the build-up of dose below a
surface.
"""

import argparse
import csv
from pathlib import Path

import jax
import numpy as np

from fibsim.materials import composition
from fibsim.montecarlo import bulk_yields

ELEMENTS = ("C", "Al", "Si", "Cu", "Au")
GOLD_KEV = (0.5, 1.0, 2.0, 3.0, 5.0)
ENERGIES_KEV = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
CLEAN = ("ElGomati&Assad", "Bronstein&Fraiman")  # as the table spells them
SE_ENERGIES_KEV = (0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
SE_RATIOS_KEV = (2.0, 5.0, 10.0, 20.0)


def backscatter(data: Path, electrons: int) -> dict[tuple[str, float], tuple[float, float]]:
    """Tables of eta against the spread of the measured sets; returns that of beam electrons."""
    with (data / "eta_measured.csv").open() as file:
        measured = list(csv.DictReader(file))
    beam_only = {}
    inside, compared = np.zeros(2, int), 0
    print("           beam electrons            all above 50 eV           measured")
    print(
        "solid   keV     eta +- error  inside     eta +- error  inside  (sets)    all, less spread"
    )
    for element in ELEMENTS:
        for kev in ENERGIES_KEV:
            near = [
                (float(r["eta"]), r["source"])
                for r in measured
                if r["element"] == element
                and abs(float(r["energy_keV"]) / kev - 1) < 0.15
                and (kev >= 6 or any(name in r["source"] for name in CLEAN))
            ]
            columns, within, miss = [], [], ""
            for fast in (False, True):
                # With weights a mean needs more electrons for the same error.
                eta, error = bulk_eta(element, kev, electrons * (1 + fast), fast_secondaries=fast)
                if not fast:
                    beam_only[element, kev] = eta, error
                mark = "-"
                if near:
                    values = np.array([value for value, _ in near])
                    low, high = 0.95 * values.min(), 1.05 * values.max()
                    within.append(low - 2 * error <= eta <= high + 2 * error)
                    mark = "yes" if within[-1] else "NO"
                    off = max(low - eta, eta - high, 0.0)
                    miss = "" if within[-1] else f"{off / (low if eta < low else high):+.0%}"
                    miss = miss.replace("+", "-") if eta < low else miss
                columns.append(f"{eta:.4f} +- {error:.4f}  {mark:6s}")
            text = "none"
            if near:
                inside, compared = inside + within, compared + 1
                sets = len({source for _, source in near})
                text = f"{values.min():.3f}-{values.max():.3f} ({sets})   {miss}"
            print(f"{element:5s} {kev:5g}  {'    '.join(columns)}  {text}", flush=True)
    print(f"inside: {inside[0]} of {compared} (beam electrons), {inside[1]} (all above 50 eV)")
    return beam_only


def bulk_eta(element: str, kev: float, electrons: int, **options) -> tuple[float, float]:
    """Backscatter coefficient of bulk at normal incidence, and its standard error."""
    out = bulk_yields(
        composition(element), beam_kev=kev, electrons=electrons, key=jax.random.key(0),
        detectors=["BSE"], **options,
    )  # fmt: skip
    return float(out.mean[0]), float(out.error[0])


def other_codes(data: Path) -> dict[tuple[str, float], list[float]]:
    """(EPQ's eta, its error, PenRed's of beam electrons, its error) at normal incidence."""
    found = {}
    for name, column in (
        ("epq_eta_bulk_combined.csv", "eta"),
        ("penred_eta_bulk.csv", "eta_primary"),
        ("penred_eta_bulkother.csv", "eta_primary"),
    ):
        with (data / name).open() as file:
            for r in csv.DictReader(file):
                if float(r["tilt_deg"]) == 0:
                    case = found.setdefault((r["material"], float(r["E0_keV"])), [])
                    case += [float(r[column]), float(r[f"{column}_se"])]
    return {case: values for case, values in found.items() if len(values) == 4}


def codes(data: Path, ours: dict[tuple[str, float], tuple[float, float]], electrons: int) -> None:
    """Tables of bulk eta of beam electrons beside EPQ and PenRed; gold below 2 keV by Browning."""
    others = other_codes(data)
    print("solid   keV     ours     EPQ  PenRed   ours to their mean, where they agree within 5 %")
    differences = []
    for (element, kev), (eta, error) in ours.items():
        if (element, kev) not in others:
            print(f"{element:5s} {kev:5g}  {eta:.4f}       -       -")
            continue
        epq, epq_error, penred, penred_error = others[element, kev]
        text = f"they differ by {epq / penred - 1:+.0%}"
        if abs(epq / penred - 1) <= 0.05:
            mean = (epq + penred) / 2
            noise = np.hypot(error, np.hypot(epq_error, penred_error) / 2) / mean
            differences.append(eta / mean - 1)
            text = f"{differences[-1]:+.1%} +- {noise:.1%}"
        print(f"{element:5s} {kev:5g}  {eta:.4f}  {epq:.4f}  {penred:.4f}   {text}")
    within = np.sum(np.abs(differences) <= 0.05)
    print(f"within 5 %: {within} of {len(differences)}, largest {np.abs(differences).max():.1%}")

    print("gold     keV    Mott  Browning     EPQ  PenRed")
    for kev in GOLD_KEV:
        two = [bulk_eta("Au", kev, electrons, elastic=e)[0] for e in ("mott", "browning")]
        epq, _, penred, _ = others.get(("Au", kev), [np.nan] * 4)
        print(
            f"      {kev:6g}  {two[0]:.4f}    {two[1]:.4f}  {epq:6.4f}  {penred:6.4f}", flush=True
        )


def peak(energies: np.ndarray, yields: np.ndarray) -> tuple[float, float]:
    """Energy in keV and height of the largest yield, by a parabola in ln E through its neighbours.

    At the first or last energy it is that value: the peak lies there or beyond.
    """
    top = int(np.argmax(yields))
    if not 0 < top < len(yields) - 1:
        return float(energies[top]), float(yields[top])
    near = slice(top - 1, top + 2)
    a, b, c = np.polyfit(np.log(energies[near]), yields[near], 2)
    return float(np.exp(-b / (2 * a))), float(c - b * b / (4 * a))


def shape(energies: np.ndarray, yields: np.ndarray) -> tuple[float, list[float]]:
    """Peak energy in keV, and yields over the peak's at SE_RATIOS_KEV (NaN outside the data)."""
    at, height = peak(energies, yields)
    logs = np.interp(
        np.log(SE_RATIOS_KEV), np.log(energies), np.log(yields), left=np.nan, right=np.nan
    )
    return at, list(np.exp(logs) / height)


def secondaries(data: Path, electrons: int, fast: bool) -> None:
    """Table of the secondary yield's peak and of its fall, against every measured set."""
    with (data / "se_yield_measured.csv").open() as file:
        measured = list(csv.DictReader(file))
    print("with fast secondaries" if fast else "without fast secondaries")
    print(
        "solid  source                 peak keV   "
        + "  ".join(f"{e:g} keV" for e in SE_RATIOS_KEV)
        + "   height"
    )
    inside = compared = 0
    for element in ELEMENTS:
        yields = np.array([
            bulk_yields(
                composition(element), beam_kev=kev, electrons=electrons * (1 + fast),
                key=jax.random.key(1), detectors=["SE"], fast_secondaries=fast,
            ).mean[0]
            for kev in SE_ENERGIES_KEV
        ])  # fmt: skip
        at, ours = shape(np.array(SE_ENERGIES_KEV), yields)
        sets = []
        for source in sorted({r["source"] for r in measured if r["element"] == element}):
            rows = sorted(
                (float(r["energy_keV"]), float(r["delta"]))
                for r in measured
                if (r["element"], r["source"]) == (element, source)
            )
            if len(rows) > 3 and rows[0][0] <= 1.0:  # else it does not show its peak
                energies, deltas = np.array(rows).T
                sets.append((source, *shape(energies, deltas), deltas.max()))
        for source, where, ratios, height in [("Monte Carlo", at, ours, yields.max()), *sets]:
            text = "  ".join(f"{r:5.2f}" if r == r else "    -" for r in ratios)
            print(f"{element:6s} {source:24s} {where:6.2f}   {text}    {height:5.2f}", flush=True)
        for number, value in enumerate(ours):
            known = [r[number] for _, _, r, _ in sets if r[number] == r[number]]
            if known:
                within = 0.9 * min(known) <= value <= 1.1 * max(known)
                compared, inside = compared + 1, inside + within
                if not within:
                    print(f"{element:6s} not inside at {SE_RATIOS_KEV[number]:g} keV")
    print(f"ratios inside {inside} of {compared}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "physics"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--electrons", type=int, default=40000)
    parser.add_argument("--only", choices=("eta", "se"))
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is absent; give the folder with --data")
    if options.only != "se":
        beam_only = backscatter(options.data, options.electrons)
        codes(options.data, beam_only, options.electrons)
    if options.only != "eta":
        for fast in (False, True):
            secondaries(options.data, options.electrons, fast)


if __name__ == "__main__":
    main()
