"What can be wrong with a picture, and what is said about it."
import struct, zlib

import numpy as np
import pytest
from PIL import Image

from fesgan.data.faces import MIN_FACE, TEMPLATES, crop_face, find_faces, read_image, similarity, warp
from fesgan.files import FesganError


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype="uint8")


@pytest.mark.parametrize("name, content", [
    ("zero.jpg", b""), ("text.jpg", b"this is a letter, not a picture"), ("html.png", b"<html>404</html>"),
    ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), ("eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
])
def test_bad_files_are_named(tmp_path, name, content):
    (tmp_path/name).write_bytes(content)
    with pytest.raises(FesganError, match=f"{name} cannot be read as a picture"): read_image(tmp_path/name)


@pytest.fixture(params=[False, True], autouse=True)
def pillow_switch(request, monkeypatch):
    "`import face_recognition` makes Pillow accept truncated files; nothing here may depend on it."
    from PIL import ImageFile
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [.3, .9])
def test_truncated(tmp_path, picture, suffix, share):
    f = tmp_path/f"a{suffix}"
    Image.fromarray(picture).save(f)
    whole = f.read_bytes()
    f.write_bytes(whole[:int(len(whole)*share)])
    with pytest.raises(FesganError, match="a\\"+suffix): read_image(f)


def test_flipped_bytes_in_png(tmp_path, picture):
    f = tmp_path/"a.png"
    Image.fromarray(picture).save(f)
    b = bytearray(f.read_bytes())
    b[len(b)//2] ^= 255
    f.write_bytes(b)
    with pytest.raises(FesganError, match="a.png"): read_image(f)


def png_that_claims(w, h):
    def chunk(kind, data): return struct.pack(">I", len(data))+kind+data+struct.pack(">I", zlib.crc32(kind+data))
    return b"\x89PNG\r\n\x1a\n"+chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))+chunk(b"IDAT", zlib.compress(b"\0"*100))+chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 13_000, 60_000]) # just above our limit, above Pillow's warning, above Pillow's error
def test_bomb_is_refused_before_decoding(tmp_path, side, monkeypatch):
    f = tmp_path/"bomb.png"
    f.write_bytes(png_that_claims(side, side))
    monkeypatch.setattr(Image.Image, "load", lambda *a: pytest.fail("decoded"))
    with pytest.raises(FesganError, match="bomb.png"): read_image(f)


def test_missing_and_folder(tmp_path):
    for p in (tmp_path/"none.jpg", tmp_path):
        with pytest.raises(FesganError, match="no such picture"): read_image(p)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    f = tmp_path/("a.jpg" if mode == "YCbCr" else "a.tif")                      # Pillow 12 cannot read a tif of that mode back
    Image.new(mode, (6, 4), 0).save(f)
    img = read_image(f)
    assert img.shape == (4, 6, 3) and img.dtype == np.uint8


def test_palette_transparency_is_white(tmp_path):
    p = Image.new("P", (4, 4), 0)
    p.putpalette([10, 20, 30]*256)
    p.save(tmp_path/"a.png", transparency=0)
    assert read_image(tmp_path/"a.png").min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    img = Image.new("RGB", (40, 20))
    img.paste((255, 0, 0), (0, 0, 20, 10)) # red corner, stored at the top left
    exif = img.getexif()
    exif[0x0112] = orientation
    img.save(tmp_path/"a.png", exif=exif)
    seen = read_image(tmp_path/"a.png")[..., 0] > 128
    assert seen.shape == ((20, 40) if orientation < 5 else (40, 20))
    y, x = np.argwhere(seen).mean(0)/seen.shape
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert (round(float(y)), round(float(x))) == corner


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 1, 3), (7, 5, 3)])
@pytest.mark.parametrize("crop", ["centre", "whole"])
def test_odd_shapes(shape, crop):
    out = crop_face(np.full(shape, 77, "uint8"), 32, crop)
    assert out.outcome == "ok" and out.image.shape == (32, 32, 3) and set(np.unique(out.image)) == {77}


def test_no_face_in_flat_and_tiny_pictures():
    for shape in ((1, 1, 3), (20, 400, 3), (64, 64, 3)):
        out = crop_face(np.full(shape, 128, "uint8"))
        assert (out.outcome, out.image, out.n_faces) == ("no face", None, 0)


def test_boxes_are_in_the_pictures_pixels(monkeypatch):
    "Whatever size the detector looks at, boxes come back in the original's pixels; the second look happens only if the first found nothing."
    import fesgan.data.faces as faces
    looks = []
    class Api:
        @staticmethod
        def face_locations(img, **_):
            looks.append(max(img.shape))
            return [(0, img.shape[1]//2, img.shape[0]//2, 0), (0, 10, 10, 0)][::-1] if len(looks) > 1 else []
    monkeypatch.setattr(faces, "dlib_api", lambda: Api)
    boxes = find_faces(np.zeros((500, 1000, 3), "uint8"))
    assert looks == [480, 1280]
    looks.clear()
    assert find_faces(np.zeros((100, 200, 3), "uint8")) == [] and looks == [480] # a small picture is looked at once
    assert boxes[0] == pytest.approx((0, 0, 500, 250)) and len(boxes) == 2


@pytest.mark.parametrize("boxes, outcome", [
    ([], "no face"), ([(0, 0, MIN_FACE-2, MIN_FACE-2)], "small face"), ([(0, 0, 60, 60), (0, 0, 59, 59)], "several faces")])
def test_outcomes_without_a_crop(monkeypatch, boxes, outcome):
    import fesgan.data.faces as faces
    monkeypatch.setattr(faces, "find_faces", lambda image: boxes)
    out = crop_face(np.zeros((100, 100, 3), "uint8"))
    assert (out.outcome, out.image, out.matrix, out.n_faces) == (outcome, None, None, len(boxes))


def test_matrix_puts_the_eyes_on_the_template(monkeypatch):
    "Three marks at known places end up where its template says, whatever the turn."
    import fesgan.data.faces as faces
    for turn in (0, 35, -100):
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        marks = (np.array([[-30, -20], [30, -20], [0, 44]]) @ np.array([[c, s], [-s, c]]))+150
        img = np.zeros((300, 300, 3), "uint8")
        for i, (x, y) in enumerate(marks): img[int(y)-2:int(y)+3, int(x)-2:int(x)+3, i] = 255
        lip = np.tile(marks[2], (12, 1))
        monkeypatch.setattr(faces, "find_faces", lambda image: [(100, 100, 200, 200)])
        monkeypatch.setattr(faces, "find_landmarks", lambda image, box, m=marks, lip=lip: dict(left_eye=m[:1], right_eye=m[1:2], top_lip=lip))
        out = crop_face(img, 200)
        for i in range(3):
            weight = out.image[..., i].astype(float)
            centre = (np.indices(weight.shape)*weight).sum((1, 2))/weight.sum()+.5
            assert np.abs(centre[::-1]-np.array(TEMPLATES["landmarks"][i])*200).max() < 3


def test_similarity_never_mirrors():
    a = np.array([[0, 0], [1, 0], [0, 1.]])
    assert np.linalg.det(similarity(a, a*[-1, 1])[:, :2]) >= 0


def test_warp_there_and_back():
    smooth = np.array(Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype="uint8")).resize((96, 96), Image.BICUBIC))
    m = np.array([[1.2, -.5, 10], [.5, 1.2, -20]])
    back = np.linalg.inv(np.vstack([m, [0, 0, 1]]))[:2]
    again = warp(warp(smooth, m, 96), back, 96)
    inside = np.s_[40:60, 30:50]
    assert np.abs(again[inside].astype(int)-smooth[inside]).mean() < 3
