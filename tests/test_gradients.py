"""Every gradient that a fit uses, against finite differences in double precision."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import fibsim
from fibsim.instrument import replace_by_name
from fibsim.specimens import make_specimen

# Holds for the script, too.
pytestmark = pytest.mark.usefixtures("compiled_fast")

SCRIPT = Path(__file__).with_name("gradient_checks.py")


def test_gradients_agree_with_central_differences():
    """Each leaf of instrument and milling, voxels of the specimen, and the likelihood: 1e-4."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


@pytest.mark.parametrize(
    ("name", "at"), [("geometry.slice_nm", 9.7), ("geometry.pixel_nm", 4.0), ("beam_kev", [2.0])]
)
def test_one_leaf_alone_can_be_differentiated(name, at):
    """While all the others stay concrete, as in a fit with one free parameter."""
    specimen = make_specimen(
        np.random.default_rng(0).uniform(size=(12, 24, 24)).astype(np.float32),
        voxel_nm=(5.0, 4.0, 4.0),
    )
    lens = fibsim.make_instrument(beam_kev=(2.0,))

    def total(leaf):
        moved = replace_by_name(lens, {name: leaf})
        images = fibsim.expected_stack(specimen, moved, num_slices=3, sublayers=2, below_slices=2)
        return images.mean()

    # Shapes only: what is tested is that tracing succeeds.
    shape = jax.eval_shape(jax.grad(total), jax.numpy.asarray(at))
    assert shape.shape == np.shape(at)
