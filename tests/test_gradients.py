"""Every stage's gradient, against central differences in float64."""

import os
import subprocess
import sys
from pathlib import Path


def test_gradients_agree_with_central_differences():
    """All instrument leaves, the solid fraction, the milling and the noise: below 1e-4."""
    script = Path(__file__).with_name("gradient_checks.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
