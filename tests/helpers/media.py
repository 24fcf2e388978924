"""For the tests of `lfvd extract`: tones, plain colours, drawn faces, a tiny text encoder, MELD's folder in small."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

RATE = 16_000
FPS = 25
SENTENCES = ["oh no", "what a day this was for all of us, and for you", "", "we lost", "great news", "x", "no " * 60]


def tone(hertz: float, seconds: float) -> np.ndarray:
    """[samples] float32 at RATE, with some overtones."""
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(0.3 / k * np.sin(2 * np.pi * k * hertz * time) for k in (1, 2, 3)).astype(np.float32)


def write_clip(path: Path, *, sound: np.ndarray | None = None, pictures: Sequence[np.ndarray] = ()) -> Path:
    """A media file with mono sound [samples] at RATE, and pictures [height, width, 3] at FPS; lossless in `.mkv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless = path.suffix == ".mkv"
    with av.open(str(path), "w") as container:
        voice = film = None
        if sound is not None:
            voice = container.add_stream(
                "pcm_s16le" if path.suffix in (".mkv", ".wav") else "aac", rate=RATE, layout="mono"
            )
        if len(pictures):
            film = container.add_stream("ffv1" if lossless else "mpeg4", rate=FPS)
            film.height, film.width = pictures[0].shape[:2]
            film.pix_fmt = "bgr0" if lossless else "yuv420p"
            film.time_base = Fraction(1, FPS)
        if voice is not None:
            for start in range(0, len(sound), 1024):
                samples = np.rint(sound[None, start : start + 1024] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                frame.rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
        if film is not None:
            for i, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, FPS)
                container.mux(film.encode(frame))
            container.mux(film.encode(None))
    return path


def plain(value: int, *, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture of one colour that tells its `value`, 0 to 255."""
    return np.full((height, width, 3), (value, 255 - value, 40), np.uint8)


def face(side: int) -> np.ndarray:
    """A drawn face that OpenCV's cascade takes for one: [side, side] uint8."""
    picture, scale = np.full((side, side), 90, np.uint8), side / 200

    def ellipse(x: float, y: float, wide: float, high: float, grey: int) -> None:
        centre, axes = (int(x * scale), int(y * scale)), (int(wide * scale), int(high * scale))
        cv2.ellipse(picture, centre, axes, 0, 0, 360, grey, -1, cv2.LINE_AA)

    ellipse(100, 100, 72, 95, 190)
    for x in (68, 132):
        ellipse(x, 80, 24, 12, 110)
        ellipse(x, 82, 13, 7, 60)
        ellipse(x, 66, 26, 6, 70)
    ellipse(100, 105, 9, 30, 215)
    ellipse(100, 128, 16, 6, 140)
    ellipse(100, 155, 30, 9, 90)
    return cv2.GaussianBlur(picture, (0, 0), 2.5 * scale)


TEXTS = {
    "train": [("oh no", "sadness"), ("what a day", "joy"), ("we lost it", "sadness"), ("great news", "joy")],
    "dev": [("you lost the day", "anger"), ("hi", "neutral")],
    "test": [("no no no", "anger"), ("great", "joy"), ("what news we had of it", "neutral")],
}


def write_meld(folder: Path, texts: dict[str, list[tuple[str, str]]] = TEXTS) -> Path:
    """MELD's three CSVs with one dialogue a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in texts.items():
        lines = [f"{i},{text},A,{label},0,{i}" for i, (text, label) in enumerate(rows)]
        header = "Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID"
        (folder / f"{split}_sent_emo.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return folder


def write_encoder(folder: Path) -> Path:
    """A RoBERTa of six layers, 16 wide, at most 38 tokens, with random weights, and a tokenizer of its own."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=special, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    trained.save_model(str(folder))
    transformers.RobertaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=trained.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    transformers.RobertaModel(config).save_pretrained(folder)
    return folder
