"""Does `fibsim compare` find nothing where there is nothing, and small differences where there are?

Pairs of stacks (1 and 5 keV, 36 slices of 96 x 96 pixels) of independent random specimens, recorded
by the same instrument, and by instruments that differ in one number. Printed are, for the whole
classifier and for each of its views: mean and standard deviation of the AUC, the share of the
95 % intervals that hold 0.5, and their mean width.

    python experiments/comparison_null.py [repeats]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from fibsim.compare import Comparison, TrainSettings, compare_stacks
from fibsim.console import use_compilation_cache
from fibsim.fit import draw_sample
from fibsim.instrument import Instrument, leaves_by_name, replace_by_name
from fibsim.presets import make_instrument
from fibsim.stack import Stack, virtual_stack

SPECIMEN = {"solid_fraction": jnp.asarray(0.36), "ligament_nm": jnp.asarray(32.0)}
KEV = (1.0, 5.0)
FAULTS = {"thickness_sd": 0.1, "drift_nm": 1.0, "flicker_sd": 0.02, "curtain_sd": 0.02}
# What differs in the second instrument, as factors or as values.
DIFFERENCES = {
    "noise 2.5 % higher": ("noise.dose_electrons", 1.025**-2, "factor"),
    "noise 20 % higher": ("noise.dose_electrons", 1.2**-2, "factor"),
    "tilt 34 for 38 degrees": ("geometry.tilt_deg", 34.0, "value"),
    "tilt 0 for 38 degrees": ("geometry.tilt_deg", 0.0, "value"),
}


@jax.jit
def _images(key, instrument):
    return draw_sample(
        instrument,
        SPECIMEN,
        key=key,
        kind="waves",
        shape=(36, 96, 96),
        slice_nm=10.0,
        pixel_nm=4.0,
        sublayers=3,
        below_slices=6,
    ).images


def stack(key: jax.Array, instrument: Instrument) -> Stack:
    """A recording of a random specimen in whole grey values."""
    return virtual_stack(_images(key, instrument), instrument)


def compared(seed: int, real: Instrument, simulated: Instrument, stacks: int = 1) -> Comparison:
    """Two recordings, the second of one or several specimens."""
    key, key_real, *keys = jax.random.split(jax.random.key(seed), 2 + stacks)
    others = [stack(one, simulated) for one in keys]
    settings = TrainSettings(patches=1600, steps=150)
    return compare_stacks(stack(key_real, real), others, key=key, patch=24, settings=settings)


def show(title: str, found: list[Comparison]) -> None:
    """One line per view."""
    rows = {"both": [(c.auc, *c.interval) for c in found]}
    for view in ("network", "statistics"):
        several = [c.auc_by_view[view] for c in found]
        rows[view] = [(a.value, a.low, a.high) for a in several]
    for view, values in rows.items():
        auc, low, high = np.array(values).T
        sd = auc.std(ddof=1) if len(auc) > 1 else 0.0
        print(
            f"{title:26} {view:10} {len(auc):3} pairs: AUC {auc.mean():.3f}, s.d. {sd:.3f}; "
            f"interval holds 0.5 in {100 * np.mean((low <= 0.5) & (high >= 0.5)):.0f} %, "
            f"width {np.mean(high - low):.3f}",
            flush=True,
        )


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    use_compilation_cache()
    instrument = make_instrument(beam_kev=KEV, tilt_deg=38.0)
    leaves = leaves_by_name(instrument)
    faulty = replace_by_name(
        instrument, {f"faults.{name}": jnp.asarray(value) for name, value in FAULTS.items()}
    )
    for title, one, stacks in (
        ("same, one specimen each", instrument, 1),
        ("same, against three", instrument, 3),
        ("same, with faults", faulty, 1),
    ):
        show(title, [compared(seed, one, one, stacks) for seed in range(repeats)])
    for title, (name, number, kind) in DIFFERENCES.items():
        value = leaves[name] * number if kind == "factor" else jnp.asarray(number)
        other = replace_by_name(instrument, {name: value})
        show(title, [compared(100 + i, instrument, other) for i in range(max(repeats // 8, 1))])


if __name__ == "__main__":
    main()
