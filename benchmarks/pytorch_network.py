"""The segmenter's network in PyTorch, with our weights: what `network.py` times beside ours.

Written for PyTorch as its users would: modules, channels-last tensors, layer normalisation over
features, AdamW. A stem's kernel is taken for a fixed set of channels, where it is an ordinary
convolution.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fibnet.model import ModelConfig, UNet

__all__ = ["TorchUNet", "as_tensor", "largest_difference", "torch_network", "training_step"]


def _conv(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class Block(nn.Module):
    """``x + conv(relu(conv(norm(x))))``, with the neighbouring slices as features in 3D."""

    def __init__(self, width: int, volume: bool):
        super().__init__()
        self.volume = volume
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.first = _conv(3 * width if volume else width, width, 3)
        self.second = _conv(width, width, 3)

    def forward(self, x):
        # Channels-last memory: neither permutation copies.
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.volume:
            above, below = torch.cat([y[:1], y[:-1]]), torch.cat([y[1:], y[-1:]])
            y = torch.cat([above, y, below], dim=1)
        return x + self.second(F.relu(self.first(y)))


class TorchUNet(nn.Module):
    """`fibnet.model.UNet` for ``features`` inputs per pixel (slices times channels)."""

    def __init__(self, config: ModelConfig, features: int):
        super().__init__()
        widths = config.widths
        self.fold = config.fold

        def stage(width):
            return nn.ModuleList([Block(width, config.volume) for _ in range(config.blocks)])

        self.stem = _conv(features * config.fold**2, widths[0], 3)
        self.down = nn.ModuleList([stage(w) for w in widths])
        self.wider = nn.ModuleList([_conv(a, b, 1) for a, b in itertools.pairwise(widths)])
        self.narrower = nn.ModuleList([_conv(b, a, 3) for a, b in itertools.pairwise(widths)])
        self.up = nn.ModuleList([stage(w) for w in widths[:-1]])
        self.head = _conv(widths[0], config.fold**2, 1)

    def forward(self, x):
        """Windows ``(slice, feature, y, x)`` -> logits ``(slice, y, x)``."""
        x = self.stem(F.pixel_unshuffle(x, self.fold))
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x)
            if level < len(self.wider):
                skips.append(x)
                x = self.wider[level](F.avg_pool2d(x, 2))
        for level in reversed(range(len(self.up))):
            x = skips[level] + F.interpolate(self.narrower[level](x), scale_factor=2)
            for block in self.up[level]:
                x = block(x)
        return F.pixel_shuffle(self.head(x), self.fold)[:, 0]


def _copy(target: nn.Module, kernel, bias) -> None:
    with torch.no_grad():
        target.weight.copy_(torch.from_numpy(np.array(kernel, np.float32).transpose(3, 2, 0, 1)))
        target.bias.copy_(torch.from_numpy(np.array(bias, np.float32)))


def _stem_kernel(model: UNet, conditions: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """The convolution that the stem is for these channels: its answer to single pixels."""
    taps = model.stem.kernels.shape[3]
    count, present = taps * len(conditions), jnp.ones(len(conditions))
    bias = model.stem(jnp.zeros((1, 3, 3, count)), conditions, present)[0, 1, 1]
    points = jnp.zeros((count, 3, 3, count)).at[jnp.arange(count), 1, 1, jnp.arange(count)].set(1.0)
    # A convolution turns a single pixel into its kernel, mirrored.
    answer = (model.stem(points, conditions, present) - bias)[:, ::-1, ::-1]
    return np.asarray(answer).transpose(1, 2, 0, 3), np.asarray(bias)


def torch_network(model: UNet, config: ModelConfig, conditions: jax.Array) -> TorchUNet:
    """A PyTorch network with the weights of ours."""
    features = config.window * len(conditions)
    twin = TorchUNet(config, features)
    kernel, bias = _stem_kernel(model, conditions)
    # Ours orders folded features pixel first, PyTorch's pixel_unshuffle feature first.
    pixels = config.fold**2
    kernel = kernel.reshape(3, 3, pixels, features, -1).swapaxes(2, 3)
    _copy(twin.stem, kernel.reshape(3, 3, pixels * features, -1), bias)
    pairs = [(twin.head, model.head)]
    for mine, own in ((twin.wider, model.wider), (twin.narrower, model.narrower)):
        pairs += zip(mine, own, strict=True)
    for mine, own in ((twin.down, model.down), (twin.up, model.up)):
        for blocks, originals in zip(mine, own, strict=True):
            for block, original in zip(blocks, originals, strict=True):
                pairs += [(block.first, original.first), (block.second, original.second)]
    for target, source in pairs:
        _copy(target, source.kernel[...], source.bias[...])
    return twin.to(memory_format=torch.channels_last)


def as_tensor(windows) -> torch.Tensor:
    """Our ``(slice, y, x, feature)`` as a channels-last tensor."""
    return torch.from_numpy(np.array(windows, np.float32)).permute(0, 3, 1, 2)


def largest_difference(twin: TorchUNet, windows, logits) -> float:
    """Between both networks' logits."""
    with torch.no_grad():
        found = twin(as_tensor(windows)).numpy()
    return float(np.abs(found - np.asarray(logits)).max())


def training_step(twin: TorchUNet, windows, solid):
    """A function that does one step of AdamW."""
    optimiser = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    x, target = as_tensor(windows), torch.from_numpy(np.array(solid, np.float32))

    def step():
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(twin(x), target).backward()
        optimiser.step()

    return step
