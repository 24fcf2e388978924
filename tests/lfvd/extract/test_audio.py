"""Sound and openSMILE: the same as openSMILE makes of the plain file, of the stretch that was asked for."""

import shutil
import subprocess
import wave

import numpy as np
import pytest

REASON = "needs pip install 'lfvd[features]'"
pytest.importorskip("av", reason=REASON)
opensmile = pytest.importorskip("opensmile", reason=REASON)

from lfvd.extract.audio import Audio, samples  # noqa: E402
from lfvd.extract.clips import Clip, ClipError  # noqa: E402
from tests.helpers.media import RATE, plain, tone, write_clip  # noqa: E402


def smile() -> opensmile.Smile:
    return opensmile.Smile(feature_set=opensmile.FeatureSet.IS10, feature_level=opensmile.FeatureLevel.Functionals)


def write_wave(path, sound):
    """Sound as a .wav, by the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.rint(sound * 32767).astype("<i2").tobytes())
    return path


def pitch(vector: np.ndarray) -> float:
    """Mean F0, Hz."""
    return float(vector[smile().feature_names.index("F0final_sma_amean")])


def test_equals_opensmile_on_the_file(tmp_path):
    rng = np.random.default_rng(0)
    file = write_wave(tmp_path / "a.wav", tone(180, 0.7) * 0.8 + 0.01 * rng.standard_normal(11200))
    vector = Audio()(Clip(file=file))
    assert vector.shape == (Audio().width,) == (1582,)
    expected = smile().process_file(str(file)).to_numpy()[0]
    np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["a.wav", "a.mkv", "a.mp4"])
def test_a_stretch_of_a_file(tmp_path, name):
    """Three tones of a second: each stretch has its own, from any container."""
    sound = np.concatenate([tone(hertz, 1) for hertz in (150, 220, 330)])
    film = [plain(0)] * 75 if name.endswith("mp4") else []
    file = write_clip(tmp_path / name, sound=sound, pictures=film)
    stretches = [samples(Clip(file=file, start=s, end=e)) for s, e in ((0, 1), (1, 2), (2, None))]
    assert [abs(len(part) - RATE) <= 2048 for part in stretches] == [True] * 3  # AAC fills its last frame
    for part, hertz in zip(stretches, (150, 220, 330), strict=True):
        spectrum = np.abs(np.fft.rfft(part[:RATE]))
        assert abs(int(spectrum.argmax()) * RATE / len(part[:RATE]) - hertz) <= 2
    assert pitch(Audio()(Clip(file=file, start=1.1, end=1.9))) == pytest.approx(220, rel=0.02)


def test_a_stretch_is_exact_to_the_sample(tmp_path):
    sound = np.rint(np.random.default_rng(0).uniform(-1, 1, 3 * RATE) * 32000) / 32768
    file = write_wave(tmp_path / "a.wav", sound * 32768 / 32767)
    cut = samples(Clip(file=file, start=1.25, end=2.5))
    np.testing.assert_allclose(cut, sound[RATE * 5 // 4 : RATE * 5 // 2], atol=1e-4)


def test_stereo_at_another_rate_is_mixed_and_resampled(tmp_path):
    left, right = (np.sin(2 * np.pi * hertz * np.arange(44_100) / 44_100) for hertz in (300, 500))
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(np.rint(np.stack([left, right], 1) * 16000).astype("<i2").tobytes())
    sound = samples(Clip(file=tmp_path / "a.wav"))
    assert len(sound) == RATE
    spectrum = np.abs(np.fft.rfft(sound))
    assert sorted(np.argsort(spectrum)[-2:].tolist()) == [300, 500]


def test_clips_without_usable_sound(tmp_path):
    def reason(name: str, **times: float) -> str:
        with pytest.raises(ClipError) as refusal:
            Audio()(Clip(file=tmp_path / name, **times))
        return str(refusal.value)

    write_clip(tmp_path / "silent.mp4", pictures=[plain(0)] * 5)
    write_wave(tmp_path / "short.wav", tone(200, 0.02))
    whole = write_clip(tmp_path / "whole.mp4", sound=tone(200, 1))
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.mp4").write_text("no film", encoding="utf-8")
    (tmp_path / "empty.mp4").touch()
    assert reason("silent.mp4") == "has no sound"
    assert reason("short.wav") == "has 0.02 s of sound, too little for openSMILE"
    assert reason("short.wav", start=5.0) in (
        "has no sound from 5 s on",
        "has 0.00 s of sound, too little for openSMILE",
    )
    for name in ("cut.mp4", "text.mp4", "empty.mp4"):
        assert reason(name) == "cannot be decoded (Invalid data found when processing input)"


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_speech_loud_and_low(tmp_path):
    vectors = []
    for loudness in ("30", "150"):
        file = tmp_path / f"{loudness}.wav"
        subprocess.run(["espeak-ng", "-a", loudness, "-w", file, "how do you do, my friend"], check=True)
        vectors.append(Audio()(Clip(file=file)))
    assert np.isfinite(vectors).all()
    low, loud = (vector[smile().feature_names.index("pcm_loudness_sma_amean")] for vector in vectors)
    assert 0 < 1.5 * low < loud
