"""Sound → the 1582 functionals of openSMILE's IS10 set (Eyben et al., 2010; Schuller et al., 2010).

The set is the one that the `opensmile` package ships as IS10_paraling_compat. openSMILE's licence: research and education.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
import opensmile

from lfvd.extract.work import Clip, ClipError, opened

RATE = 16_000
"""Samples a second, mono: the rate of the corpora that the set was made for."""


@dataclass(frozen=True, kw_only=True)
class Audio:
    """A clip's sound → [1582] float32; an Extractor."""

    opensmile: str = opensmile.__version__
    """Version of the package, since another one may count otherwise."""

    @property
    def width(self) -> int:
        return int(_smile().num_features)

    def __call__(self, clip: Clip) -> np.ndarray:
        """Raises ClipError where the clip has no sound, or too little of it."""
        sound = samples(clip)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sound that is too short, found below
            vector: np.ndarray = _smile().process_signal(sound, RATE).to_numpy(np.float32)[0]
        if np.isnan(vector).all():
            raise ClipError(f"has {len(sound) / RATE:.2f} s of sound, too little for openSMILE")
        return vector


@cache
def _smile() -> opensmile.Smile:
    """One a process: to read its configuration takes as long as a clip."""
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.IS10, feature_level=opensmile.FeatureLevel.Functionals, num_workers=1
    )


def samples(clip: Clip) -> np.ndarray:
    """The clip's sound, mono at RATE: [samples] float32 in -1..1. Raises ClipError where there is none."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    first, parts = None, []
    with opened(clip, "audio") as container:
        for frame in container.decode(audio=0):
            if clip.end is not None and frame.time >= clip.end:
                break
            first = frame.time if first is None else first
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    if first is None:
        raise ClipError(f"has no sound from {clip.start:g} s on")
    sound = np.concatenate(parts + [part.to_ndarray()[0] for part in resampler.resample(None)])
    begin = max(round((clip.start - first) * RATE), 0)
    end = len(sound) if clip.end is None else round((clip.end - first) * RATE)
    return sound[begin : max(end, begin)]
