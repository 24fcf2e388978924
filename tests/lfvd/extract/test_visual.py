"""Pictures: which frames are taken, which face of them, and DenseNet-121 against its definition layer by layer."""

import hashlib
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

REASON = "needs pip install 'lfvd[features]'"
pytest.importorskip("av", reason=REASON)
cv2 = pytest.importorskip("cv2", reason=REASON)
pytest.importorskip("huggingface_hub", reason=REASON)

from lfvd.extract.densenet import DenseNet121, load, weights_file  # noqa: E402
from lfvd.extract.visual import Visual, centre, frames, largest_face  # noqa: E402
from lfvd.extract.work import Clip, ClipError  # noqa: E402
from lfvd.files import InputError  # noqa: E402
from tests.helpers.media import FPS, face, plain, tone, write_clip  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights, and running means far from those of a new network."""
    torch.manual_seed(0)
    network = DenseNet121()
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape))
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape))
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(network.state_dict(), file)
    return file


def visual(weights, **options) -> Visual:
    return Visual(weights=weights, digest=hashlib.sha256(weights.read_bytes()).hexdigest(), **options)


def shown(pictures: list[np.ndarray]) -> list[int]:
    """The values of plain pictures."""
    return [round(float(picture[..., 0].mean())) for picture in pictures]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """50 pictures in 2 s; picture i has the value 4 i."""
    return write_clip(tmp_path_factory.mktemp("film") / "a.mkv", pictures=[plain(4 * i) for i in range(50)])


@pytest.mark.parametrize(
    ("start", "end", "count", "numbers"),
    [
        (0.0, None, 5, [5, 15, 25, 35, 45]),
        (0.0, None, 1, [25]),
        (0.0, None, 50, range(50)),
        (0.0, None, 400, range(50)),  # each at most once
        (1.04, 1.64, 3, [28, 33, 38]),
        (1.0, 1.001, 3, [25]),
        (1.6, None, 2, [42, 47]),
    ],
)
def test_frames_are_those_in_the_middles_of_equal_stretches(film, start, end, count, numbers):
    assert shown(frames(Clip(file=film, start=start, end=end), count)) == [4 * i for i in numbers]


def test_frames_of_a_compressed_film_with_sound(tmp_path):
    pictures = [plain(50 * (i // 10)) for i in range(50)]
    file = write_clip(tmp_path / "a.mp4", sound=tone(200, 2), pictures=pictures)
    assert shown(frames(Clip(file=file), 5)) == pytest.approx([0, 50, 100, 150, 200], abs=12)
    assert shown(frames(Clip(file=file, start=1.4), 3)) == pytest.approx([150, 200, 200], abs=12)


@pytest.mark.parametrize("scale", [1, 3])
def test_the_largest_face_with_a_margin(scale):
    """Two faces, 120 and 200 pixels times the scale."""
    picture = np.full((360 * scale, 640 * scale, 3), 128, np.uint8)
    assert largest_face(picture) is None
    picture[100 * scale : 220 * scale, 420 * scale : 540 * scale] = face(120 * scale)[..., None]
    alone = largest_face(picture)
    assert 140 <= alone.shape[1] / scale <= 200, "120 pixels and a fifth on each side"
    picture[40 * scale : 240 * scale, 60 * scale : 260 * scale] = face(200 * scale)[..., None]
    found = largest_face(picture)
    assert 240 <= found.shape[1] / scale <= 320
    x, y = cv2.minMaxLoc(cv2.matchTemplate(picture, found, cv2.TM_CCOEFF_NORMED))[3]
    assert abs((x + found.shape[1] / 2) / scale - 160) < 20
    assert abs((y + found.shape[0] / 2) / scale - 140) < 20


def test_centre_is_the_middle_square():
    picture = np.arange(6 * 10).reshape(6, 10)
    assert np.array_equal(centre(picture), picture[:, 2:8])
    assert np.array_equal(centre(picture.T), picture.T[2:8])


def literal_densenet(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Section 3 and Table 1 of Huang et al. (2017), one operation at a time."""

    def relu_of_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5).sqrt()
        shift = state[f"{name}.bias"] - state[f"{name}.running_mean"] * scale
        return (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

    x = F.conv2d(images, state["features.conv0.weight"], stride=2, padding=3)
    x = F.max_pool2d(relu_of_norm(x, "features.norm0"), 3, 2, 1)
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            narrow = F.conv2d(relu_of_norm(x, f"{name}.norm1"), state[f"{name}.conv1.weight"])
            new = F.conv2d(relu_of_norm(narrow, f"{name}.norm2"), state[f"{name}.conv2.weight"], padding=1)
            x = torch.cat([x, new], 1)
        if block < 4:
            name = f"features.transition{block}"
            x = F.avg_pool2d(F.conv2d(relu_of_norm(x, f"{name}.norm"), state[f"{name}.conv.weight"]), 2)
    return relu_of_norm(x, "features.norm5").mean((2, 3))


def test_densenet_equals_its_definition(weights):
    network = load(weights)
    assert sum(p.numel() for p in network.parameters()) == 6_953_856  # the published 7,978,856 without the classifier
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            network(images), literal_densenet(network.state_dict(), images), rtol=1e-4, atol=1e-5
        )


def test_weights_with_the_names_of_torchvisions_file(weights, tmp_path):
    """`denselayer1.norm.1.weight`, in a torch file with a classifier."""
    state = load(weights).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save({**old, "classifier.weight": torch.zeros(1000, 1024)}, tmp_path / "densenet121.pth")
    again = load(tmp_path / "densenet121.pth").state_dict()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_bad_weights_are_refused(weights, tmp_path, monkeypatch):
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"features.conv0.weight": Attack()}, tmp_path / "attack.pth")
    save_file({"features.conv0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(weights.read_bytes()[:1000])
    for name in ("attack.pth", "other.safetensors", "broken.safetensors"):
        with pytest.raises(InputError, match=f"{name}: does not hold the weights of a DenseNet-121 "):
            load(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="--model /no/such/file: is no file, and the hub does not give it"):
        weights_file("/no/such/file")
    assert weights_file(str(weights)) == weights


def network_input(picture: np.ndarray) -> torch.Tensor:
    """A plain picture as ImageNet's networks want it: [1, 3, 224, 224]."""
    colour = (picture[0, 0] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.tensor(colour, dtype=torch.float32)[None, :, None, None].expand(1, 3, 224, 224)


def test_a_clip_is_the_mean_over_its_frames(weights, film):
    network = load(weights)
    with torch.inference_mode():
        expected = torch.cat([network(network_input(plain(value))) for value in (48, 148)]).mean(0).numpy()
    vector = visual(weights, frames=2)(Clip(file=film))
    assert vector.shape == (visual(weights).width,) == (1024,)
    np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-4)


def test_frames_with_a_face_count_alone(weights, tmp_path):
    picture = np.full((240, 320, 3), 128, np.uint8)
    picture[20:220, 40:240] = face(200)[..., None]
    other = write_clip(tmp_path / "both.mkv", pictures=[plain(9, height=240, width=320)] * FPS + [picture] * FPS)
    alone = write_clip(tmp_path / "face.mkv", pictures=[picture] * FPS)
    both = visual(weights, frames=2)(Clip(file=other))
    np.testing.assert_allclose(both, visual(weights, frames=2)(Clip(file=alone)), rtol=1e-4, atol=1e-5)
    assert np.abs(both - visual(weights, frames=2, faces=False)(Clip(file=other))).max() > 0.01


def test_clips_without_usable_pictures(weights, tmp_path):
    write_clip(tmp_path / "sound.mp4", sound=tone(200, 0.5))
    whole = write_clip(tmp_path / "whole.mp4", pictures=[plain(3 * i) for i in range(50)])
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:400])
    for name, start, reason in (
        ("sound.mp4", 0.0, "has no pictures"),
        ("cut.mp4", 0.0, "cannot be decoded (Invalid data found when processing input)"),
        ("whole.mp4", 9.0, "has no pictures from 9 s on"),
    ):
        with pytest.raises(ClipError, match=f"^{re.escape(reason)}$"):
            visual(weights)(Clip(file=tmp_path / name, start=start))
