"""What ran where: versions, device, memory; for reports and for ``fibsim doctor``."""

import importlib.metadata
import platform
import sys

from fibsim._version import __version__
from fibsim.memory import memory_bytes
from fibsim.threads import available_cores

__all__ = ["environment", "versions"]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "tifffile",
             "scikit-image", "scikit-learn", "matplotlib")  # fmt: skip


def versions() -> dict[str, str]:
    """fibsim, Python and the packages that decide results."""
    found = {"fibsim": __version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def environment() -> dict[str, str]:
    """System, processors, memory and the devices that JAX computes on."""
    import jax

    found = {"system": f"{platform.system()} {platform.machine()}", "byte order": sys.byteorder}
    found["processor cores"] = str(available_cores())
    memory = memory_bytes()
    if memory is not None:
        found["memory"] = f"{memory / 2**30:.1f} GiB"
    for i, device in enumerate(jax.devices()):
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        size = f", {limit / 2**30:.1f} GiB" if limit else ""
        found[f"JAX device {i}"] = f"{device.platform} ({device.device_kind}){size}"
    return found
