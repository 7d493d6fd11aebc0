"""Does a fit recover what it fits, within the errors that it states?

Claim: on stacks that fibsim simulated with known unknowns, drawn at random, every unknown that the
stack determines lies within three of its stated standard errors. Seeds below 26 were looked at
while the fit was built; the claim is tested on those from 26 on.

Command: ``python experiments/fit_recovery.py --draws 20`` (three to five minutes a draw on one
fast core; what stands in ``--table``, recovery.csv, is not fitted again). A draw: levelled waves of
random solid fraction and ligament size, 48 x 128 x 128, 1, 2 and 5 kV SE, tilt 38 degrees; all
interaction numbers, offsets, SE shares, gammas and astigmatism moved by 0.8 of their prior's
standard deviation, in random directions; gain by 15, probe and amplifier noise by 30, dose by
40 %; 1.2 % flicker and curtains, lines of one grey value.

Measured (seeds 26 to 45; tilt known, all converged): every one of the 47 unknowns within three
errors in 18 of 20 draws at least, 42 of them in all; of those determined 404 of 411, in 17 draws
all. Outside: seed 28, a gain 4.4, offsets 4.9 and 3.1 and an amplifier noise 7.6 errors; seed 35,
an amplifier noise 3.8; seed 37, a gain 4.1 and an amplifier noise 3.6. Gain, offset and amplifier
noise make up for each other along a bent valley, which strong gammas lead far along, and errors
still follow it only in part.

Median error over the draws (sizes in their units, all others in the free space: logarithms, offsets
in units of 20 grey values), by channel, and the share of the prior's variance that the data took
away::

    gain                  0.031  0.019  0.035   1.00     bse_facing           0.076   0.75
    offset                0.138  0.201  0.195   0.98     wall_reflection      0.053   0.73
    gamma                 0.046  0.034  0.039   0.5-0.6  se_by_bse            0.134   0.56
    probe_nm              0.058  0.056  0.115   0.7-0.9  edge_gain            0.137   0.54
    dose_electrons        0.132  0.068  0.097   0.99     return_depth         0.168   0.49
    read_grey             1.7    2.1    2.0     1.00     wall_transparency    0.114   0.37
    astigmatism           0.483  0.342  0.385   0.1      range_scale          0.041   0.34
    astigmatism_diagonal  0.617  0.573  0.450   0.01     se_incidence         0.109   0.28
    se_fraction           0.585  0.584  0.408   0.0-0.1  lateral_exit         0.166   0.16
    bunching              0.131  0.136  0.143   0.03     se_escape_nm         0.155   0.05
    flicker_sd            0.002                 1.00     bse_incidence        0.262   0.00
    curtain_sd            0.009                 0.02     wall_emission        0.017   0.94
    line_grey             0.031                 0.94     ligament_nm          0.008   1.00
                                                         solid_fraction       0.028   0.99

Before walls that face away gave more secondaries (`fibsim.render`) 402 of 410 were within, the same
three quantities of seeds 28 and 37 outside.

Before errors followed the valley, of seeds 20 to 25 25 of 26, 22 of 22, 16 of 23, 23 of 23, 19 of
24 and 21 of 24 did (seed 22: an offset of 12 grey values was fitted as 32, and started from the
truth the fit ends at 17, hardly less probable).
"""

import argparse
import csv
import time
from collections.abc import Container
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fibsim.console import use_compilation_cache
from fibsim.fit import (
    FitSettings,
    apply_unknowns,
    default_unknowns,
    draw_sample,
    fit_instrument,
    from_free,
    specimen_unknowns,
    standard_errors,
    start_point,
    to_free,
)
from fibsim.fit.flat import flatten_free
from fibsim.io import atomic_write_text, csv_text
from fibsim.presets import make_instrument
from fibsim.stack import virtual_stack

BEAM_KEV = (1.0, 2.0, 5.0)
SHAPE, SLICE_NM, PIXEL_NM, TILT_DEG = (48, 128, 128), 10.0, 4.0, 38.0
# Standard deviations of the draw, in the free space; for all others 0.8 of the prior's.
SPREAD = {
    "detector.gain": 0.15,
    "detector.offset": 0.5,
    "detector.probe_nm": 0.3,
    "noise.dose_electrons": 0.4,
    "noise.read_grey": 0.3,
}
FAULTS = {"faults.flicker_sd": 0.012, "faults.curtain_sd": 0.012, "faults.line_grey": 1.0}
DETERMINED = 0.75  # share of the prior's variance: the error is half of the prior's


def moved(free: dict, unknowns: dict, rng: np.random.Generator, kept: Container[str]) -> dict:
    """Free variables drawn around ``free``, but for those that are kept."""
    drawn = {}
    for name, value in free.items():
        if name in kept:
            drawn[name] = value
            continue
        sd = SPREAD.get(name, 0.8 * unknowns[name].prior_sd)
        drawn[name] = value + sd * rng.normal(size=np.shape(value))
        if unknowns[name].transform == "size":
            drawn[name] = jnp.maximum(drawn[name], 0)
    return drawn


def draw(seed: int):
    """A stack, and the free variables that made it."""
    rng = np.random.default_rng(seed)
    base = make_instrument(beam_kev=BEAM_KEV, tilt_deg=TILT_DEG)
    specimen = {
        "solid_fraction": float(rng.uniform(0.28, 0.45)),
        "ligament_nm": float(rng.uniform(25, 45)),
    }
    unknowns = default_unknowns(tilt_known=True) | specimen_unknowns(specimen)
    truth = start_point(base, specimen, unknowns)
    truth |= {n: to_free(jnp.asarray(size), unknowns[n]) for n, size in FAULTS.items()}
    truth = moved(truth, unknowns, rng, {*FAULTS, *specimen_unknowns(specimen)})
    instrument, parameters = apply_unknowns(truth, base, specimen, unknowns)
    sample = draw_sample(
        instrument,
        {name: jnp.asarray(value) for name, value in parameters.items()},
        key=jax.random.key(100 + seed),
        kind="waves",
        shape=SHAPE,
        slice_nm=SLICE_NM,
        pixel_nm=PIXEL_NM,
        sublayers=3,
        below_slices=11,
    )
    return virtual_stack(sample.images, instrument), truth


def recover(seed: int) -> list[dict]:
    """Fit a draw; a row for every unknown: sizes in their units, all others in the free space."""
    stack, truth = draw(seed)
    started = time.perf_counter()
    fit = fit_instrument(stack, key=jax.random.key(seed), settings=FitSettings())
    seconds = time.perf_counter() - started
    found, flat = fit.refinement, flatten_free(truth, fit.unknowns)
    facts = {"draw": seed, "converged": bool(fit.converged)}
    if found is None:  # counts as wrong in everything
        print(f"draw {seed}: {seconds:.0f} s, no errors stated: {fit.warnings[-1]}", flush=True)
        nothing = {"found": np.nan, "error": np.nan, "determined": np.nan}
        named = zip(flat.names, flat.join(truth), strict=True)
        return [facts | {"unknown": name, "true": true} | nothing for name, true in named]
    errors, natural = found.flat.split(found.standard_errors), standard_errors(fit)
    true, ends = dict(truth), dict(found.free)
    for name, unknown in fit.unknowns.items():
        if unknown.transform == "size":
            errors[name] = natural[name]
            true[name], ends[name] = (from_free(v[name], unknown) for v in (true, ends))
    vectors = [found.flat.join(values) for values in (true, ends, errors)]
    columns = (found.flat.names, *vectors, found.determined)
    rows = [
        facts | dict(zip(("unknown", "true", "found", "error", "determined"), row, strict=True))
        for row in zip(*columns, strict=True)
    ]
    sure = [row for row in rows if row["determined"] > DETERMINED]
    print(
        f"draw {seed}: {seconds:.0f} s, converged {found.converged}, misfit {found.misfit:.2f}, "
        f"{sum(abs(score(row)) < 3 for row in sure)} of {len(sure)} determined within 3 errors; "
        f"distance {fit.start_distance:.3f} to {fit.fitted_distance:.3f}, floor "
        f"{fit.real_distance:.3f}",
        flush=True,
    )
    return rows


def score(row: dict) -> float:
    """Deviation in stated errors."""
    return (float(row["found"]) - float(row["true"])) / float(row["error"])


def show(rows: list[dict]) -> None:
    """A line for every unknown, over all draws."""
    print(f"{'unknown':34}{'median |error|':>15}{'within 3':>12}{'median |score|':>15}{'known':>7}")
    for name in dict.fromkeys(row["unknown"] for row in rows):
        own = [row for row in rows if row["unknown"] == name]
        error = [abs(float(row["found"]) - float(row["true"])) for row in own]
        scores = np.abs([score(row) for row in own])
        known = np.nanmedian([float(row["determined"]) for row in own])
        print(
            f"{name:34}{np.nanmedian(error):15.3f}{np.sum(scores < 3):7d} of {len(own):<2d}"
            f"{np.nanmedian(scores):13.2f}{known:9.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first", type=int, default=26, help="seed of the first draw")
    parser.add_argument("--table", type=Path, default=Path("recovery.csv"))
    options = parser.parse_args()
    use_compilation_cache()
    rows = []
    if options.table.exists():
        with options.table.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {int(row["draw"]) for row in rows}
    for seed in sorted(set(range(options.first, options.first + options.draws)) - done):
        rows += recover(seed)
        table = [[row[column] for column in rows[0]] for row in rows]
        atomic_write_text(options.table, csv_text([list(rows[0]), *table]))
    show(rows)


if __name__ == "__main__":
    main()
