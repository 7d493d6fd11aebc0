"""The network that a training may begin from."""

import dataclasses
import hashlib
from pathlib import Path

import jax
import numpy as np

from fibnet.model import ModelConfig
from fibnet.segmenter import Segmenter, load_segmenter
from fibsim.errors import InputError

__all__ = ["load_start", "network_folder", "start_identity"]


def network_folder(path: str | Path) -> Path:
    """Where the network of a folder lies that train, pretrain or reconstruct wrote."""
    folder = Path(path)
    return folder / "model" if (folder / "model").is_dir() else folder


def load_start(path: str | Path | None, config: ModelConfig) -> Segmenter | None:
    """The network that a training begins from, None if none is given.

    Raises:
        InputError: no network there, or one of another architecture.
    """
    if path is None:
        return None
    start = load_segmenter(network_folder(path))
    # How a network is used is no part of its weights.
    if dataclasses.replace(start.config, mirrored=config.mirrored) != config:
        raise InputError(
            f"{path} holds a network with {start.config} but this training is of {config}; choose "
            "the preset that the network was made with, or make one for this preset with "
            "fibnet pretrain."
        )
    return start


def start_identity(start: Segmenter | None) -> str | None:
    """A fingerprint of the network that a training begins from."""
    if start is None:
        return None
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(start.params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]
