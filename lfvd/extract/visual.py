"""Pictures → DenseNet-121: faces where there are some, averaged over frames spread evenly over the clip.

Faces are found by the cascade that OpenCV's package ships (Viola and Jones, 2001): frontal ones. Of each frame the
largest face counts, whoever it is; a clip without any gives its whole frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from lfvd.extract.densenet import WIDTH, DenseNet121, load
from lfvd.extract.work import Clip, ClipError, opened

SIDE = 224
"""Pixels of the network's square input."""
SEARCHED = 360
"""Pixels of the shorter side in which faces are looked for: four times as fast as in 720."""
LEAST = 30
"""Pixels of the smallest face there."""
MARGIN = 0.2
"""Room around a face, as a share of its side: the cascade cuts off chin and forehead."""
MEAN, DEVIATION = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
"""Of ImageNet's red, green and blue in 0..1."""


@dataclass(frozen=True, kw_only=True)
class Visual:
    """A clip's pictures → [1024] float32; an Extractor."""

    weights: Path
    digest: str
    """SHA-256 of the weights, so that other ones in the same place make other vectors."""
    frames: int = 16
    """Frames to look at, fewer where the clip has fewer."""
    faces: bool = True
    """Look for faces; False: whole frames."""
    device: str = "cpu"

    @property
    def width(self) -> int:
        return WIDTH

    def __call__(self, clip: Clip) -> np.ndarray:
        """Raises ClipError where the clip has no pictures."""
        pictures = frames(clip, self.frames)
        found = [face for picture in pictures if (face := largest_face(picture)) is not None] if self.faces else []
        images = np.stack([_network_input(p) for p in found or [centre(p) for p in pictures]])
        with torch.inference_mode():
            vectors = _network(self.weights, self.device)(torch.from_numpy(images).to(self.device))
        mean: np.ndarray = vectors.mean(0).cpu().numpy()
        return mean


@cache
def _network(weights: Path, device: str) -> DenseNet121:
    torch.set_num_threads(1)  # the processes share the cores already
    return load(weights).to(device)


@cache
def _cascade() -> cv2.CascadeClassifier:
    cv2.setNumThreads(1)
    folder = Path(cv2.__file__).parent / "data"
    return cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))


def frames(clip: Clip, count: int) -> list[np.ndarray]:
    """Up to `count` frames, from the middles of as many equal stretches of the clip: [height, width, 3] uint8 red first.

    Raises ClipError where there are none.
    """
    chosen, shown = [], None
    with opened(clip, "video") as container:
        first, last_end = _span(container)
        start, end = max(clip.start, first), last_end if clip.end is None else min(clip.end, last_end)
        times = list(start + (np.arange(count) + 0.5) / count * (end - start)) if start < end else []
        for frame in container.decode(video=0) if times else ():
            # A frame is shown until the next one comes.
            if shown is not None and times[0] < frame.time:
                chosen.append(shown.to_ndarray(format="rgb24"))
                times = [t for t in times if t >= frame.time]
            if not times:
                break
            shown = frame
        if shown is not None and times:
            chosen.append(shown.to_ndarray(format="rgb24"))
    if not chosen:
        raise ClipError(f"has no pictures from {clip.start:g} s on")
    return chosen


def _span(container: av.container.InputContainer) -> tuple[float, float]:
    """Seconds at which the pictures begin and end, on the file's own clock."""
    stream = container.streams.video[0]
    if stream.duration is not None:
        first = (stream.start_time or 0) * stream.time_base
        return float(first), float(first + stream.duration * stream.time_base)
    if container.duration is not None:
        first = (container.start_time or 0) / av.time_base
        return first, first + container.duration / av.time_base
    raise ClipError("does not say how long it is")


def largest_face(picture: np.ndarray) -> np.ndarray | None:
    """The square around the largest face with a margin, cut off at the picture's edges; None where there is no face."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    scale = min(SEARCHED / min(grey.shape), 1.0)
    if scale < 1.0:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = _cascade().detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(LEAST, LEAST))
    if len(found) == 0:
        return None
    x, y, side = (round(n / scale) for n in max(found, key=lambda box: box[2])[:3])
    room = round(MARGIN * side)
    return picture[max(y - room, 0) : y + side + room, max(x - room, 0) : x + side + room]


def centre(picture: np.ndarray) -> np.ndarray:
    """The square in the middle, as high or as wide as the picture."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _network_input(picture: np.ndarray) -> np.ndarray:
    """Any picture → [3, SIDE, SIDE] float32, normalised as ImageNet's."""
    sized = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    image: np.ndarray = ((sized - MEAN) / DEVIATION).transpose(2, 0, 1)
    return image
