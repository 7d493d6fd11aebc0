"""Does the forward model have the right shape? Against an independent electron Monte Carlo.

Claim: with the specimen given, the default numbers, calibrated on our own Monte Carlo of another
specimen, explain 94 to 95 % of the noise-free variance of slices 32-47; ten physical numbers
shared by all voltages and both signals, fitted on slices 0-31, 95 to 97.5 %.

Command: ``python experiments/forward_fidelity.py`` (about 2 minutes on 2 cores). Needs the shared
data (``../shared/data/instrument_a``). This is a physics test: what it fits is printed and used
nowhere else.

Measured (SE 1, BSE 1, SE 2, BSE 2, SE 5, BSE 5 kV), slices 32-47:
defaults 0.937 0.952 0.936 0.947 0.940 0.936; fitted 0.975 0.964 0.971 0.963 0.955 0.957.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile
from fidelity import FREE, minimise, render, unexplained

from fibsim.fit.unknowns import apply_unknowns, start_point
from fibsim.presets import make_instrument

# Share of the variance that is counting noise, per voltage for (SE, BSE): from the data's notes.
NOISE_SHARE = np.asarray([[0.063, 0.071], [0.086, 0.070], [0.167, 0.101]])
BELOW = 6  # slices that shine through under the last face


def load(folder: Path) -> tuple[jax.Array, jax.Array]:
    """Specimen on the pixel grid with its ground of dense gold, and yields (kV, SE/BSE, ...).

    The specimen is ``(phase, z, y, x)`` with one phase.
    """
    fine = tifffile.imread(folder / "specimen.tif").astype(np.float32)
    coarse = fine.reshape(256, 128, 2, 128, 2).mean((2, 4))[2:]  # the first face lies at 4 nm
    ground = np.ones((20, 128, 128), np.float32)
    yields = np.load(folder / "yields.npz")["yields"].astype(np.float32)
    return jnp.asarray(np.concatenate([coarse, ground]))[None], jnp.asarray(
        yields.transpose(1, 2, 0, 3, 4)
    )


def explained(model: np.ndarray, measured: np.ndarray, test: slice) -> np.ndarray:
    """Explained share of noise-free variance on ``test``, gain and offset from slices 0-31."""
    out = np.empty((3, 2))
    for v in range(3):
        for d in range(2):
            gain, offset = np.polyfit(model[v, d, :32].ravel(), measured[v, d, :32].ravel(), 1)
            residual = measured[v, d, test] - gain * model[v, d, test] - offset
            noise = NOISE_SHARE[v, d] * measured[v, d].var()
            out[v, d] = 1 - (np.mean(residual**2) - noise) / (measured[v, d, test].var() - noise)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "instrument_a"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is absent; give the folder with --data")
    solid, measured = load(options.data)
    instrument = make_instrument(beam_kev=[1.0, 2.0, 5.0])
    held = slice(32, 48)

    def model(free, slices):
        changed, _ = apply_unknowns(free, instrument, {}, FREE)
        return render(solid, changed, range(slices), BELOW)

    free = start_point(instrument, {}, FREE)
    everything = jax.jit(lambda free: model(free, 48))
    print("signal           ", "SE 1kV BSE 1kV  SE 2kV BSE 2kV  SE 5kV BSE 5kV")

    def show(name):
        share = explained(np.asarray(everything(free)), np.asarray(measured), held)
        print(f"{name:18s}", "  ".join(f"{v:6.3f}" for v in share.ravel()), flush=True)

    show("defaults")
    seen = measured[:, :, :32]
    gradient = jax.jit(jax.grad(lambda free: unexplained(model(free, 32), seen).mean()))
    free = minimise(gradient, free, steps=options.steps, rate=0.1)
    show("fitted, slices 32-47")
    for name, value in free.items():
        print(f"  {name:30s} {float(jnp.exp(value)):.3f}")


if __name__ == "__main__":
    main()
