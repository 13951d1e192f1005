"""Pictures too large to be held many at a time: smaller, but the same pictures, and one at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from kernel.pipeline import decoding
from kernel.pipeline.decoding import MOST_PIXELS, BadImage, decode, decoded_batches, to_rgb, white_of
from kernel.pipeline.images import ImageFile

SIZE = (46, 70)


@pytest.fixture
def small_most(monkeypatch):
    """Of 46 x 70 pixels a sixteenth is left, and two of eighteen rows are converted at a time."""
    monkeypatch.setattr(decoding, "MOST_PIXELS", 12 * 18)
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 46 * 2)


def colours(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[:, :, 0].astype(np.uint16) * 250)
    return Image.fromarray(values, "RGBA").convert(mode)


@pytest.mark.usefixtures("small_most")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_a_large_picture_is_the_mean_of_its_squares(tmp_path, mode):
    """Against Pillow's own reduction of the whole picture, converted at once."""
    colours(mode).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        expected = to_rgb(opened, white_of(opened)).reduce(4)
    found = decode(tmp_path / "a.png")
    assert isinstance(found, Image.Image) and found.size == (12, 18)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.usefixtures("small_most")
@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_a_picture_of_floats_is_scaled_as_a_whole(tmp_path, white):
    levels = np.linspace(0, white, 46 * 70, dtype=np.float32).reshape(70, 46)
    Image.fromarray(levels).save(tmp_path / "a.tif")
    decoded = decode(tmp_path / "a.tif")
    expected = Image.fromarray(np.round(levels / white * 255).astype(np.uint8)).convert("RGB").reduce(4)
    assert np.abs(np.asarray(decoded, int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_picture_of_no_numbers_is_a_bad_image(tmp_path, odd):
    Image.fromarray(np.array([[0, 0.5], [1, odd]], np.float32)).save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif") == BadImage("ValueError: pixels that are no numbers")


@pytest.mark.usefixtures("small_most")
def test_of_a_large_strip_the_middle_is_kept(tmp_path):
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(1, 900).repeat(4, axis=0)).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png")
    assert isinstance(found, Image.Image) and found.size == (32, 2)  # 64 x 4, sides halved


@pytest.mark.usefixtures("small_most")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_picture_is_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    colours("RGB").save(tmp_path / "a.png", exif=exif)
    found = decode(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        expected = ImageOps.exif_transpose(opened).size
    assert isinstance(found, Image.Image) and found.size == tuple(-(-side // 4) for side in expected)


def test_a_large_jpeg_is_made_smaller_by_its_decoder(tmp_path, monkeypatch):
    picture = colours("RGB").resize((1200, 900), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 300 * 225)
    found = decode(tmp_path / "a.jpg")
    assert isinstance(found, Image.Image) and found.size == (300, 225)
    with Image.open(tmp_path / "a.jpg") as opened:
        expected = np.asarray(opened.reduce(4)).astype(int)
    assert np.abs(np.asarray(found).astype(int) - expected).mean() < 3


def test_the_largest_that_pillow_opens_is_left_with_few_pixels(tmp_path):
    Image.new("L", (9400, 9400), 200).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png")
    assert isinstance(found, Image.Image) and found.size == (1880, 1880) and found.width * found.height <= MOST_PIXELS
    assert np.asarray(found).min() == np.asarray(found).max() == 200


@pytest.mark.usefixtures("small_most")
def test_large_pictures_are_whole_in_memory_one_at_a_time(tmp_path, monkeypatch):
    paths = [tmp_path / f"{name}.png" for name in range(8)]
    for path in paths:
        colours("RGB").save(path)
    within, most = [0], [0]
    really, counting = decoding.to_reduced_rgb, threading.Lock()

    def counted(opened):
        with counting:
            within[0] += 1
            most[0] = max(most[0], within[0])
        try:
            return really(opened)
        finally:
            with counting:
                within[0] -= 1

    monkeypatch.setattr(decoding, "to_reduced_rgb", counted)
    with ThreadPoolExecutor(8) as pool:
        assert all(isinstance(image, Image.Image) for image in pool.map(decode, paths))
    assert most == [1]


def files_of(folder, number: int) -> list[ImageFile]:
    for name in range(number):
        colours("RGB").save(folder / f"{name}.png")
    return [ImageFile(str(name), folder / f"{name}.png") for name in range(number)]


def test_an_image_without_memory_is_tried_again_when_nothing_else_is_decoded(tmp_path, monkeypatch):
    really, failed = decoding.to_reduced_rgb, []

    def once(opened):
        if opened.filename.endswith("3.png") and not failed:
            failed.append(True)
            raise MemoryError
        return really(opened)

    monkeypatch.setattr(decoding, "to_reduced_rgb", once)
    found = [image for batch in decoded_batches(files_of(tmp_path, 6), 2) for _, image in batch]
    assert failed and len(found) == 6 and all(isinstance(image, Image.Image) for image in found)


def test_a_machine_without_memory_is_no_bad_image(tmp_path, monkeypatch):
    def never(opened):
        raise MemoryError

    monkeypatch.setattr(decoding, "to_reduced_rgb", never)
    with pytest.raises(MemoryError):
        list(decoded_batches(files_of(tmp_path, 3), 2))
