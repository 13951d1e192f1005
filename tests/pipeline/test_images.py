import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kernel.errors import UserError
from kernel.pipeline.decoding import BadImage, decode, decoded_batches
from kernel.pipeline.images import FORMATS, ImageFile, formats, left_out, left_out_note, list_images
from kernel.pipeline.submission import write_submission

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def pixels(path: Path) -> list:
    """decode(path) as rows of (r, g, b)."""
    image = decode(path)
    assert isinstance(image, Image.Image), image
    assert image.mode == "RGB"
    return [[tuple(pixel) for pixel in row] for row in np.asarray(image).tolist()]


def reason(path: Path) -> str:
    bad = decode(path)
    assert isinstance(bad, BadImage), bad
    return bad.reason


def touched(folder: Path, *names: str) -> Path:
    """`folder` with empty files of these names: list_images does not open them."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


# decode: what can be used


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tif", "a.webp"])
def test_rgb_pixels_come_through_as_they_are(tmp_path, name):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    image.save(tmp_path / name, lossless=True)
    assert pixels(tmp_path / name) == [[RED, BLUE]]


def test_one_pixel_is_an_image(tmp_path):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[RED]]


def test_greyscale_gets_three_equal_channels(tmp_path):
    Image.new("L", (1, 1), 77).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[(77, 77, 77)]]


def test_black_and_white_bits_are_0_and_255(tmp_path):
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[(0, 0, 0), WHITE]]


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_sixteen_bit_greyscale_is_scaled_not_clipped(tmp_path, byte_order):
    # level / 257, rounded: 128 / 257 = 0.498, 129 / 257 = 0.502, 256 / 257 = 0.996
    levels = np.array([[0, 128, 129, 256, 257, 32896, 65535]], dtype=byte_order)
    Image.fromarray(levels).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif") == [[(v, v, v) for v in (0, 0, 1, 1, 1, 128, 255)]]


def test_sixteen_bit_png_is_scaled(tmp_path):
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[(v, v, v) for v in (0, 1, 128, 255)]]


def test_levels_beyond_sixteen_bits_are_clipped(tmp_path):
    Image.fromarray(np.array([[-5, 70_000]], dtype=np.int32)).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif") == [[(0, 0, 0), WHITE]]


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    # no cyan, full magenta and yellow, no black: red, within what JPEG loses
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = pixels(tmp_path / "a.jpg")[8][8]
    assert red > 250 and green < 5 and blue < 5


def test_transparent_colour_of_a_palette_is_shown_over_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    assert pixels(tmp_path / "a.png") == [[RED, WHITE]]


def test_transparent_colour_of_an_rgb_png_is_shown_over_white(tmp_path):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    image.save(tmp_path / "a.png", transparency=BLUE)
    assert pixels(tmp_path / "a.png") == [[RED, WHITE]]


def test_rgba_is_blended_over_white(tmp_path):
    image = Image.new("RGBA", (3, 1), (*RED, 0))
    image.putpixel((1, 0), (*RED, 255))
    image.putpixel((2, 0), (*RED, 51))  # a fifth of red over four fifths of white: 255 * 4 / 5 = 204
    image.save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[WHITE, RED, (255, 204, 204)]]


def test_greyscale_with_alpha_is_blended_over_white(tmp_path):
    Image.new("LA", (1, 1), (0, 51)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[(204, 204, 204)]]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_an_animation_gives_its_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(tmp_path / name) as opened:
        assert opened.n_frames == 3
    assert pixels(tmp_path / name) == [[RED] * 8] * 8


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, [[RED, BLUE]]),
        (2, [[BLUE, RED]]),
        (3, [[BLUE, RED]]),
        (6, [[RED], [BLUE]]),
        (8, [[BLUE], [RED]]),
    ],
)
def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path, orientation, upright):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert pixels(tmp_path / "a.png") == upright


@pytest.mark.parametrize(("name", "kind"), [("a.png", "JPEG"), ("a.jpg", "PNG"), ("a.gif", "BMP")])
def test_a_wrong_suffix_does_not_matter(tmp_path, name, kind):
    Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / name, format=kind)
    assert pixels(tmp_path / name)[4][4] == (90, 90, 90)


# columns 9,992 to 10,007 are the middle 16 of 20,000; modulo 256 they are 8 to 23
MIDDLE = [(v, v, v) for v in range(8, 24)]
STRIP = (np.arange(20_000) % 256).astype(np.uint8)


def test_a_long_strip_is_cut_to_its_middle(tmp_path):
    Image.fromarray(STRIP[None, :]).save(tmp_path / "wide.png")
    assert pixels(tmp_path / "wide.png") == [MIDDLE]


def test_a_tall_strip_is_cut_to_its_middle(tmp_path):
    Image.fromarray(STRIP[:, None]).save(tmp_path / "tall.png")
    assert pixels(tmp_path / "tall.png") == [[pixel] for pixel in MIDDLE]


@pytest.mark.parametrize(
    ("size", "kept"), [((32, 2), (32, 2)), ((33, 2), (32, 2)), ((2, 33), (2, 32)), ((48, 32), (48, 32))]
)
def test_only_what_is_longer_than_16_to_1_is_cut(tmp_path, size, kept):
    Image.new("RGB", size).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png")
    assert isinstance(image, Image.Image) and image.size == kept


# decode: what cannot be used


def noise(path: Path) -> bytes:
    """A PNG of 64 x 64 noise, about 12 kB, which no half of its bytes can hold."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tif"])
def test_a_truncated_image_is_bad(tmp_path, name):
    whole = noise(tmp_path / name)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert "Error: " in reason(tmp_path / name)


def test_a_png_that_ends_in_its_header_is_bad(tmp_path):
    (tmp_path / "a.png").write_bytes(noise(tmp_path / "whole.png")[:20])
    assert "Error: " in reason(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"this is a shopping list\n", b"\x89PNG\r\n\x1a\n", b"GIF89a", bytes(1000)])
def test_bytes_that_are_no_image_are_bad(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert "Error: " in reason(tmp_path / "a.png")


def test_a_folder_named_as_an_image_is_bad(tmp_path):
    (tmp_path / "a.png").mkdir()
    assert reason(tmp_path / "a.png").startswith("IsADirectoryError: ")


def test_a_dangling_link_is_bad(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert reason(tmp_path / "a.png").startswith("FileNotFoundError: ")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may enter; tmp_path lies in folders that only its owner may."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_file_that_may_not_be_read_is_bad(public_folder):
    path = public_folder / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    path.chmod(0o000)
    Image.init()  # loads Pillow's plugins while they may still be read
    is_root = os.geteuid() == 0  # no permission stops root
    if is_root:
        os.seteuid(65534)
    try:
        found = decode(path)
    finally:
        if is_root:
            os.seteuid(0)
    assert isinstance(found, BadImage) and found.reason.startswith("PermissionError: ")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11, 15])  # 121 pixels: Pillow warns; 225, over twice the limit: it raises
def test_an_image_over_pillows_limit_is_bad(tmp_path, monkeypatch, side):
    Image.new("RGB", (side, side)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "limit of" in reason(tmp_path / "a.png")


def test_an_image_at_pillows_limit_is_good(tmp_path, monkeypatch):
    Image.new("RGB", (10, 10), RED).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert pixels(tmp_path / "a.png") == [[RED] * 10] * 10


def test_without_pillows_limit_every_size_is_good(tmp_path, monkeypatch):
    Image.new("RGB", (15, 15), RED).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert pixels(tmp_path / "a.png") == [[RED] * 15] * 15


def test_an_image_over_the_limit_is_bad_while_another_thread_finishes(tmp_path, monkeypatch):
    """Threads share Python's warning filters, so a filter set here could be taken back from there."""
    Image.new("RGB", (1, 1)).save(tmp_path / "small.png")
    Image.new("RGB", (11, 11)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    really_open = Image.open
    small_is_inside, large_is_inside, small_is_done = (threading.Event() for _ in range(3))

    def open_in_turns(path, **options):
        if path.name == "small.png":
            small_is_inside.set()
            assert large_is_inside.wait(60)
        else:
            large_is_inside.set()
            assert small_is_done.wait(60)
        return really_open(path, **options)

    monkeypatch.setattr(Image, "open", open_in_turns)
    found = []
    small = threading.Thread(target=lambda: decode(tmp_path / "small.png"))
    large = threading.Thread(target=lambda: found.append(decode(tmp_path / "large.png")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small.start()
        assert small_is_inside.wait(60)
        large.start()
        small.join()
        small_is_done.set()
        large.join()
    assert isinstance(found[0], BadImage)


def test_a_reason_is_one_line(tmp_path, monkeypatch):
    def fail(path, **options):
        raise ValueError("first\nsecond")

    touched(tmp_path, "a.png")
    monkeypatch.setattr(Image, "open", fail)
    assert reason(tmp_path / "a.png") == "ValueError: first second"


@settings(deadline=None, max_examples=100)
@given(position=st.integers(min_value=0, max_value=10_000), byte=st.integers(min_value=0, max_value=255))
def test_no_changed_byte_crashes(position, byte):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.png")
        content = bytearray(noise(path))
        content[position] = byte
        path.write_bytes(content)
        assert isinstance(decode(path), Image.Image | BadImage)


# list_images


def test_ids_are_names_without_the_last_suffix(tmp_path):
    folder = touched(tmp_path, "20057f34d.png", "two words.jpg", "v1.2.final.png", "größe 猫.webp", "_1.bmp")
    assert {image.id for image in list_images(folder)} == {"20057f34d", "two words", "v1.2.final", "größe 猫", "_1"}


def test_an_image_lies_where_it_was_found(tmp_path):
    folder = touched(tmp_path, "two words.png")
    assert list_images(folder) == [ImageFile("two words", folder / "two words.png")]


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "PNG", "Jpg", "TIFF"])
def test_suffixes_of_images_are_known_in_any_case(tmp_path, suffix):
    assert [image.id for image in list_images(touched(tmp_path, f"a.{suffix}"))] == ["a"]


def test_images_are_sorted_by_id_not_by_name(tmp_path):
    # as names "a b.png" and "a.jpg" would stand the other way round: " " sorts before "."
    folder = touched(tmp_path, "b.png", "a.jpg", "a b.png", "B.png", "10.png", "9.png")
    assert [image.id for image in list_images(folder)] == ["10", "9", "B", "a", "a b", "b"]


def test_other_files_and_hidden_files_are_left_out(tmp_path):
    folder = touched(tmp_path, "a.png", "prompts.csv", "README", "b.png.tmp", ".DS_Store", "._a.png", ".hidden.png")
    assert [image.id for image in list_images(folder)] == ["a"]


def test_images_of_subfolders_are_left_out(tmp_path):
    touched(touched(tmp_path, "a.png") / "more", "b.png")
    assert [image.id for image in list_images(tmp_path)] == ["a"]


def test_two_files_with_one_id_are_refused_naming_both(tmp_path):
    with pytest.raises(UserError, match=r"a\.b\.jpg and a\.b\.png have the same id 'a\.b'.*Rename or remove"):
        list_images(touched(tmp_path, "a.b.png", "a.b.jpg", "c.png"))


def test_one_id_in_two_cases_is_two_images(tmp_path):
    assert [image.id for image in list_images(touched(tmp_path, "a.png", "A.png"))] == ["A", "a"]


@pytest.mark.parametrize("name", [b"line\nbreak.png", b"carriage\rreturn.png", b"latin-1 \xe9.png"])
def test_a_name_that_cannot_stand_in_a_submission_is_refused(tmp_path, name):
    touched(tmp_path, os.fsdecode(name))
    with pytest.raises(UserError, match="cannot stand in a submission.*Rename the file"):
        list_images(tmp_path)


def test_a_folder_without_images_is_refused_with_the_expected_suffixes(tmp_path):
    with pytest.raises(UserError, match=r"no images found; expected files ending in .*\.jpeg.*\.png"):
        list_images(touched(tmp_path, "notes.txt"))


def test_a_folder_whose_subfolders_may_hold_the_images_names_them(tmp_path):
    touched(tmp_path / "images", "a.png")
    with pytest.raises(UserError, match=r"subfolders are not searched \(images\): name one of them"):
        list_images(tmp_path)


@pytest.mark.parametrize("name", ["gone", "a.png"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    touched(tmp_path, "a.png")
    with pytest.raises(UserError, match=f"{name}: no such folder; expected a folder of images"):
        list_images(tmp_path / name)


# decoded_batches


def missing_files(n: int) -> list[ImageFile]:
    return [ImageFile(str(i), Path("/nowhere", str(i))) for i in range(n)]


@pytest.mark.parametrize(("n", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4])])
def test_batches_are_full_but_the_last(n, sizes):
    assert [len(batch) for batch in decoded_batches(missing_files(n), 4)] == sizes


@settings(deadline=None, max_examples=50)
@given(n=st.integers(0, 30), batch=st.integers(1, 9), threads=st.integers(1, 4))
def test_every_file_comes_once_and_in_order(n, batch, threads):
    files = missing_files(n)
    assert [file for part in decoded_batches(files, batch, threads) for file, _ in part] == files


def test_a_bad_image_keeps_its_place(tmp_path):
    colours = {"a": RED, "b": None, "c": BLUE}
    for name, colour in colours.items():
        if colour:
            Image.new("RGB", (1, 1), colour).save(tmp_path / f"{name}.png")
        else:
            (tmp_path / f"{name}.png").write_bytes(b"")
    [batch] = decoded_batches(list_images(tmp_path), 3)
    found = {file.id: None if isinstance(image, BadImage) else image.getpixel((0, 0)) for file, image in batch}
    assert found == colours


def test_one_batch_is_read_ahead_and_never_more():
    taken = []

    def files() -> Iterator[ImageFile]:
        for file in missing_files(9):
            taken.append(file.id)
            yield file

    read_at_each_batch = [len(taken) for _ in decoded_batches(files(), 2)]
    assert read_at_each_batch == [4, 6, 8, 9, 9]


# formats


def save_all(folder: Path, suffixes: list[str]) -> None:
    for suffix in suffixes:
        Image.new("RGB", (16, 16), (90, 90, 90)).save(folder / f"a{suffix}", format=FORMATS[suffix])


@pytest.mark.parametrize("suffix", sorted(set(FORMATS) - {".heic", ".heif"}))
def test_every_suffix_is_listed_and_decoded(tmp_path, suffix):
    if suffix not in formats():
        pytest.skip(f"Pillow here has no decoder for {suffix}")
    save_all(tmp_path, [suffix])
    ([file],) = [list_images(tmp_path)]
    assert pixels(file.path)[8][8] == pytest.approx((90, 90, 90), abs=3)


@pytest.mark.parametrize("suffix", [".heic", ".heif"])
def test_heif_is_listed_and_decoded_where_its_plugin_is_there(tmp_path, suffix):
    pytest.importorskip("pillow_heif")
    formats()
    save_all(tmp_path, [suffix])
    ([file],) = [list_images(tmp_path)]
    assert pixels(file.path)[8][8] == pytest.approx((90, 90, 90), abs=3)


def test_a_suffix_without_its_decoder_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("kernel.pipeline.images.features.check", lambda feature: feature != "avif")
    formats.cache_clear()
    try:
        folder = touched(tmp_path, "a.avif", "b.png", "c.jp2")
        assert [image.id for image in list_images(folder)] == ["b", "c"]
        assert left_out(folder) == {".avif": 1}
    finally:
        formats.cache_clear()


@pytest.mark.parametrize("name", ["a.eps", "a.png"])
def test_postscript_never_reaches_ghostscript(tmp_path, monkeypatch, name):
    Image.new("RGB", (8, 8), RED).save(tmp_path / name, format="EPS")
    program = tmp_path / "programs" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it keeps what it found
    assert reason(tmp_path / name).startswith("UnidentifiedImageError: ")
    assert not (tmp_path / "started").exists()


# what is no file


def test_a_named_pipe_is_bad_and_waits_for_nobody(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(reason(tmp_path / "a.png")), daemon=True)
    waiting.start()
    waiting.join(20)
    assert found == ["a named pipe, not a file"]


def test_a_socket_is_bad(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may be 107 bytes long
    with socket.socket(socket.AF_UNIX) as own:
        own.bind("a.png")
        assert reason(tmp_path / "a.png") == "a socket, not a file"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_link_to_a_device_is_bad(tmp_path, device):
    (tmp_path / "a.png").symlink_to(device)
    assert reason(tmp_path / "a.png") == "a device, not a file"


# left out


def test_files_that_are_no_images_by_their_suffix_are_counted_by_it(tmp_path):
    touched(tmp_path, "a.png", "b.PSD", "c.psd", "d.psd", "prompts.csv", "README", ".hidden", ".DS_Store")
    touched(tmp_path / "folder.psd", "e.psd")
    assert left_out(tmp_path) == {".psd": 3, ".csv": 1, "": 1}
    (note,) = left_out_note(tmp_path)
    counts = "5 left out, by the suffix no image: 3 .psd, 1 .csv, 1 without suffix"
    assert note.startswith(f"{tmp_path}: {counts}; expected files ending in ") and ".jpg, " in note


def test_of_images_alone_there_is_nothing_to_say(tmp_path):
    assert left_out_note(touched(tmp_path, "a.png", "b.JPG")) == []


def test_ids_do_not_depend_on_the_locale(tmp_path):
    """A C locale reads names as ASCII, whose other bytes Python keeps as surrogates."""
    touched(tmp_path, "größe 猫.png")
    code = "import sys; from pathlib import Path; from kernel.pipeline.images import list_images\n"
    code += "print(ascii([image.id for image in list_images(Path(sys.argv[1]))]))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == ascii(["größe 猫"]), done.stderr


def test_check_says_what_it_left_out(tmp_path, capsys):
    from kernel.__main__ import main

    images = touched(tmp_path / "images", "a.png", "b.psd")
    write_submission(tmp_path / "submission.csv", ["a"], np.ones((1, 384), dtype=np.float32))
    assert main(["check", str(tmp_path / "submission.csv"), str(images)]) == 0
    assert "1 left out, by the suffix no image: 1 .psd" in capsys.readouterr().err
