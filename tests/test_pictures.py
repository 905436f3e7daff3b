import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from multiposenet.data.pictures import PictureError, load_picture, picture_size


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def quadrants() -> np.ndarray:
    """4x6 picture: red, green / blue, white."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2, :3], pixels[:2, 3:], pixels[2:, :3], pixels[2:, 3:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    return pixels


def test_a_picture_is_the_same_from_path_bytes_open_file_and_pil_image(tmp_path):
    image = Image.fromarray(quadrants())
    image.save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        from_file = load_picture(file)
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), encoded(image), image]
    for loaded in [from_file, *map(load_picture, sources)]:
        assert loaded.dtype == np.uint8
        assert loaded.flags.writeable
        assert_array_equal(loaded, quadrants())


def test_a_pil_image_of_the_caller_stays_open_and_unchanged():
    image = Image.fromarray(quadrants())
    load_picture(image)[:] = 7
    assert_array_equal(np.asarray(image), quadrants())


def test_greyscale_is_repeated_in_three_channels():
    grey = np.array([[0, 100, 255]], np.uint8)
    assert_array_equal(load_picture(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_becomes_black_and_white():
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    assert_array_equal(load_picture(encoded(image))[0, :, 0], [255, 0])


def test_sixteen_bit_greyscale_keeps_its_high_byte():
    values = np.array([[0, 255, 256, 0x1234, 65535]], np.uint16)
    expected = [0, 0, 1, 0x12, 255]
    assert_array_equal(load_picture(encoded(Image.fromarray(values)))[0, :, 1], expected)
    assert_array_equal(load_picture(encoded(Image.fromarray(values), "TIFF"))[0, :, 1], expected)
    assert_array_equal(load_picture(Image.fromarray(values.astype(np.int32)))[0, :, 1], expected)  # mode I


def test_palette_is_looked_up_and_its_transparent_entry_is_white():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    assert_array_equal(load_picture(encoded(image))[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    assert_array_equal(
        load_picture(encoded(image, transparency=1))[0], [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(mode):
    colour = (0, 0, 0) if mode == "RGBA" else (0,)
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((255, 51, 0)):
        image.putpixel((x, 0), (*colour, alpha))
    assert_array_equal(load_picture(encoded(image))[0, :, 2], [0, 204, 255])  # black, 80 % white, white


def test_a_transparent_colour_of_an_rgb_picture_is_white():
    assert_array_equal(load_picture(encoded(Image.fromarray(quadrants()), transparency=(0, 0, 255)))[3, 0], [255] * 3)


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    assert_array_equal(load_picture(encoded(image, "TIFF"))[8, 8], [255, 0, 0])
    assert np.abs(load_picture(encoded(image, "JPEG"))[8, 8].astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "PA", "RGBX"])
def test_rarer_modes_load_as_rgb(mode):
    image = Image.new(mode, (5, 4))
    assert load_picture(image).shape == (4, 5, 3)


def test_exif_orientation_6_turns_the_picture_clockwise():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(quadrants()), exif=exif)
    loaded = load_picture(data)
    assert_array_equal(loaded, np.rot90(quadrants(), k=-1))
    assert picture_size(io.BytesIO(data)) == loaded.shape[:2] == (6, 4)
    assert_array_equal(load_picture(data, upright=False), quadrants())


def test_picture_size_is_height_then_width(tmp_path):
    Image.fromarray(quadrants()).save(tmp_path / "a.jpg")
    assert picture_size(tmp_path / "a.jpg") == (4, 6)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert_array_equal(load_picture(data)[0, 0], [255, 0, 0])


@pytest.mark.parametrize(("file_format", "suffix"), [("JPEG", "jpg"), ("PNG", "png")])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, file_format, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PictureError, match=rf"cut\.{suffix}.*damaged.*fetch"):
        load_picture(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_no_picture_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "page.jpg").write_bytes(content)
    for function in (load_picture, picture_size):
        with pytest.raises(PictureError, match=r"page\.jpg: not a picture"):
            function(tmp_path / "page.jpg")


def test_floating_point_pixels_are_an_error():
    with pytest.raises(PictureError, match="floating-point pixels have no agreed range"):
        load_picture(Image.new("F", (2, 2)))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        load_picture(tmp_path / "nowhere.jpg")
    with pytest.raises(PictureError, match="is a folder"):
        load_picture(tmp_path)


def test_a_source_of_another_kind_is_a_type_error():
    with pytest.raises(TypeError, match="got int"):
        load_picture(3)
