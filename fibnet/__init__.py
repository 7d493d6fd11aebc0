"""fibnet: segment FIB-SEM stacks with a network that learns from fibsim's simulated output."""

from fibsim._version import __version__ as __version__

__all__ = ["__version__"]
