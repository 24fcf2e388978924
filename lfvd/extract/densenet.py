"""DenseNet-121 without its classifier (Huang et al., 2017), with the names that published weights use.

Written out because torchvision's packages work with the very build of torch that they were made for, and no other.
Shapes: images [b, 3, height, width].
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lfvd.files import InputError

GROWTH = 32
"""Channels that each layer adds."""
BLOCKS = (6, 12, 24, 16)
"""Layers of each dense block."""
FIRST = 64
"""Channels of the first convolution."""
WIDTH = 1024
"""Channels at the end."""


class DenseNet121(nn.Module):
    """Images, normalised as ImageNet's → one vector each: [b, 1024], the input of the published classifier."""

    def __init__(self) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(3, FIRST, 7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(FIRST),
            relu0=nn.ReLU(),
            pool0=nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = FIRST
        for i, layers in enumerate(BLOCKS, start=1):
            if i > 1:
                parts[f"transition{i - 1}"] = _transition(channels)
                channels //= 2
            parts[f"denseblock{i}"] = nn.Sequential()
            for k in range(1, layers + 1):
                parts[f"denseblock{i}"].add_module(f"denselayer{k}", _Layer(channels))
                channels += GROWTH
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(parts)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.features(images)).mean((2, 3))


class _Layer(nn.Module):
    """Channels → the same and GROWTH more."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(narrow)))], 1)


def _transition(channels: int) -> nn.Sequential:
    """Half the channels, half the height and width."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


def weights_file(name: str) -> Path:
    """A file of weights, or that of a model on the Hugging Face hub. Raises InputError where neither is to be had."""
    if Path(name).is_file():
        return Path(name)
    try:
        return Path(hf_hub_download(name, "model.safetensors"))
    except Exception as error:  # of a wrong name, of the network, of the hub
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise InputError(f"--model {name}: is no file, and the hub does not give it ({reason}): name a file") from None


def load(file: Path) -> DenseNet121:
    """The network with weights of a `.safetensors` or a torch file, in evaluation mode; a classifier in it is left out.

    Reads what torchvision and timm publish. Raises InputError where it is no such file.
    """
    try:
        safe = file.suffix == ".safetensors"
        state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
        network = DenseNet121()
        network.load_state_dict({_renamed(k): value for k, value in state.items() if k.startswith("features.")})
    except Exception as error:  # each kind of broken file has its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{file}: does not hold the weights of a DenseNet-121 ({reason}): name such a file") from None
    return network.eval()


def _renamed(key: str) -> str:
    """Torchvision's file is older than its names: `denselayer1.norm.1.weight` is `denselayer1.norm1.weight` today."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
