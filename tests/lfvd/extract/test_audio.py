"""Sound and openSMILE: the same as openSMILE makes of the plain file, of the stretch that was asked for."""

import re
import wave

import numpy as np
import pytest

REASON = "needs pip install 'lfvd[features]'"
pytest.importorskip("av", reason=REASON)
opensmile = pytest.importorskip("opensmile", reason=REASON)

from lfvd.extract.audio import Audio, samples  # noqa: E402
from lfvd.extract.work import Clip, ClipError  # noqa: E402
from tests.helpers.media import RATE, plain, tone, write_clip  # noqa: E402


def smile() -> opensmile.Smile:
    return opensmile.Smile(feature_set=opensmile.FeatureSet.IS10, feature_level=opensmile.FeatureLevel.Functionals)


def write_wave(path, sound, rate=RATE):
    """Sound [samples] or [samples, channels] as a .wav, by the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound[0].size)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(sound * 32767).astype("<i2").tobytes())
    return path


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
    for start, end, hertz in ((0, 1, 150), (1, 2, 220), (2, None, 330)):
        part = samples(Clip(file=file, start=start, end=end))
        assert abs(len(part) - RATE) <= 2048  # AAC fills its last frame
        spectrum = np.abs(np.fft.rfft(part[:RATE]))
        assert abs(int(spectrum.argmax()) * RATE / len(part[:RATE]) - hertz) <= 2
    vector = Audio()(Clip(file=file, start=1.1, end=1.9))
    assert vector[smile().feature_names.index("F0final_sma_amean")] == pytest.approx(220, rel=0.02)


def test_a_stretch_is_exact_to_the_sample(tmp_path):
    sound = np.rint(np.random.default_rng(0).uniform(-1, 1, 3 * RATE) * 32000) / 32768
    file = write_wave(tmp_path / "a.wav", sound * 32768 / 32767)
    cut = samples(Clip(file=file, start=1.25, end=2.5))
    np.testing.assert_allclose(cut, sound[RATE * 5 // 4 : RATE * 5 // 2], atol=1e-4)


def test_stereo_at_another_rate_is_mixed_and_resampled(tmp_path):
    both = [np.sin(2 * np.pi * hertz * np.arange(44_100) / 44_100) / 2 for hertz in (300, 500)]
    sound = samples(Clip(file=write_wave(tmp_path / "a.wav", np.stack(both, 1), 44_100)))
    assert len(sound) == RATE
    spectrum = np.abs(np.fft.rfft(sound))
    assert sorted(np.argsort(spectrum)[-2:].tolist()) == [300, 500]


def test_clips_without_usable_sound(tmp_path):
    write_clip(tmp_path / "silent.mp4", pictures=[plain(0)] * 5)
    write_wave(tmp_path / "short.wav", tone(200, 0.02))
    whole = write_clip(tmp_path / "whole.mp4", sound=tone(200, 1))
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.mp4").write_text("no film", encoding="utf-8")
    (tmp_path / "empty.mp4").touch()
    for name, start, reason in (
        ("silent.mp4", 0.0, "has no sound"),
        ("short.wav", 0.0, "has 0.02 s of sound, too little for openSMILE"),
        ("short.wav", 5.0, "has (no sound from 5 s on|0.00 s of sound, too little for openSMILE)"),
        *((f"{name}.mp4", 0.0, r"cannot be decoded \(Invalid data found.*\)") for name in ("cut", "text", "empty")),
    ):
        with pytest.raises(ClipError) as refusal:
            Audio()(Clip(file=tmp_path / name, start=start))
        assert re.fullmatch(reason, str(refusal.value))
