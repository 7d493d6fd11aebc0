"""Speed of the Monte Carlo: electrons per second of one core in bulk gold, beside PenRed.

Command: ``python benchmarks/montecarlo.py``. Both codes run alternately in this very run, pinned
to one core, and are timed by the core's own time (median of the repeats), compilation and start
excepted. PenRed is PENELOPE 2018 in C++ (Gimenez-Alventosa et al. 2021, doi
10.1016/j.cpc.2021.108065; ``pip install 'fibsim[bench]'``, left out where it is not installed) and
follows everything down to 50 eV as the Monte Carlo does:

* ``detailed``: every collision (C1 = C2 = 0, WCC = 0), and the secondaries above 50 eV;
* ``losses``: every elastic collision, but loss along the path without secondaries, which is what
  ours does (WCC above the beam's energy).
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

if hasattr(os, "sched_setaffinity"):  # before JAX counts the cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax

from fibsim.materials import composition
from fibsim.montecarlo import bulk_yields

try:
    import pyPenred.simulation as penred
except ImportError:
    penred = None

ENERGIES_KEV = (1.0, 2.0, 5.0, 20.0)
REPEATS = 3
SECONDS = 1.0  # of a repeat, roughly
_RULE = "0" * 64
# PENELOPE's quadric format: a cylinder of radius and depth 1 cm, deep as any range here.
_GOLD_BODY = f"""gold
{_RULE}
SURFACE (   1)   the face
INDICES=( 0, 0, 0, 1, 0)
{_RULE}
SURFACE (   2)   the bottom
INDICES=( 0, 0, 0, 1, 0)
Z-SHIFT=(+1.0000000000000000E+00,   0)
{_RULE}
SURFACE (   3)   the side
INDICES=( 1, 1, 0, 0,-1)
{_RULE}
MODULE  (   1)   gold
MATERIAL(   1)
SURFACE (   1), SIDE POINTER=(+1)
SURFACE (   2), SIDE POINTER=(-1)
SURFACE (   3), SIDE POINTER=(-1)
{_RULE}
END      {"0" * 55}
"""


def ours(kev: float, electrons: int) -> tuple[float, float, int]:
    """Core seconds per electron, backscatter coefficient, and steps per electron."""
    started = time.process_time()
    out = bulk_yields(
        composition("Au"), beam_kev=kev, electrons=electrons, key=jax.random.key(electrons)
    )
    taken = time.process_time() - started
    return taken / out.electrons, float(out.mean[1]), out.steps // out.electrons


def theirs(kev: float, electrons: int, *, losses: bool) -> tuple[float, float]:
    """Core seconds per electron of PenRed, and what comes back above 50 eV per electron."""
    soft = kev * 2e3 if losses else 0.0
    material = dict(
        number=1, filename="au.mat", C1=0.0, C2=0.0, WCC=soft, WCR=1e6 if losses else 100.0,
        eabs=dict(electron=50.0, gamma=1e6, positron=1e6),
    )  # fmt: skip
    beam = dict(
        nhist=electrons,
        kpar="electron",
        direction=dict(type="CONE", theta=0.0, phi=0.0, alpha=0.0),
        energy=dict(type="MONOENERGETIC", energy=kev * 1e3),
        spatial=dict(type="POINT", position=dict(x=0.0, y=0.0, z=-1e-6)),
    )
    tally = dict(
        type="EMERGING_PART_DISTRIB", emin=0.0, emax=kev * 1.01e3, nBinsE=10, nBinsTheta=2,
        nBinsPhi=1,
    )  # fmt: skip
    body = {"type": "PEN_QUADRIC", "input-file": "gold.geo", "processed-geo-file": "report.geo"}
    simulation = penred.create()
    simulation.configure(
        dict(
            sources=dict(generic=dict(beam=beam)),
            tallies=dict(out=tally),
            geometry=body,
            materials=dict(au=material),
            simulation=dict(threads=1),
        )
    )
    penred.setSimulationLog("simulation.log")
    simulation.simulate()
    # Its own user time leaves out the reading of tables.
    taken = float(Path("simulation.log").read_text().rsplit("user time:", 1)[1].split()[0])
    for result in simulation.getResults()["out"]:
        if result.title() == "Downbound Emerging electron":
            bin_ev = kev * 1.01e3 / 10
            return taken / electrons, float(result.data()[0].sum()) * bin_ev
    raise RuntimeError("PenRed gave no distribution of the electrons that came back")


def electrons_for(function) -> int:
    """Electrons that take about ``SECONDS``, from a short run that also compiles."""
    function(4096)
    return max(4096, round(SECONDS / function(4096)[0] / 4096) * 4096)


def compare(kev: float) -> str:
    """A line of the table."""
    codes = [lambda n: ours(kev, n)]
    if penred is not None:
        codes += [lambda n, soft=soft: theirs(kev, n, losses=soft) for soft in (False, True)]
    counts = [electrons_for(code) for code in codes]
    runs = [[code(n) for code, n in zip(codes, counts, strict=True)] for _ in range(REPEATS)]
    rates = [1 / statistics.median(run[i][0] for run in runs) for i in range(len(codes))]
    _, eta, steps = runs[0][0]
    line = f"{kev:4g} {rates[0]:11.0f} {rates[0] * steps / 1e6:9.2f} {eta:7.3f}"
    for rate, result in zip(rates[1:], runs[0][1:], strict=True):
        line += f"   {rate:10.0f} {result[1]:7.3f} {rates[0] / rate:6.1f}"
    return line


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(" keV  electrons/s  Msteps/s    eta", end="")
    for name in ("detailed", "losses") if penred else ():
        print(f"{name + '/s':>13} {'eta':>7}  ratio", end="")
    print()
    if penred is None:
        print("PenRed is left out: pyPenred is not installed; pip install 'fibsim[bench]'")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # PenRed writes its reports where it runs
        if penred is not None:
            penred.setConfigurationLog("configuration.log")
            penred.materials.create("au", 19.3, [(79, 1.0)], "au.mat")
        (Path(folder) / "gold.geo").write_text(_GOLD_BODY)
        for kev in ENERGIES_KEV:
            print(compare(kev), flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()
