"What may go wrong with `fesgan edit`: names, links, pipes, full disks, and pictures that know more than their pixels."
import contextlib, os, resource, struct, zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from fesgan.app.edit import find_spots, read_photo, save_photo
from fesgan.files import FesganError, shipped
from runs import fails, fesgan

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PERSON = next(p for p in sorted(shipped("rendered", "images").iterdir()) if p.is_dir())
FACE = Image.open(PERSON/"neutral.jpg").resize((400, 400), Image.BICUBIC)


@pytest.fixture
def place(tmp_path):
    "A folder with a photo, and things that only look like places for another one."
    (tmp_path/"photos"/"sub").mkdir(parents=True)
    FACE.save(tmp_path/"photos"/"one.jpg", quality=95)
    (tmp_path/"linked").symlink_to(tmp_path/"photos")
    (tmp_path/"soft.jpg").symlink_to(tmp_path/"photos"/"one.jpg")
    os.link(tmp_path/"photos"/"one.jpg", tmp_path/"hard.jpg")
    os.mkfifo(tmp_path/"pipe.jpg")
    (tmp_path/"null.jpg").symlink_to("/dev/null")
    (tmp_path/"dead").symlink_to(tmp_path/"nowhere")
    (tmp_path/"round.jpg").symlink_to(tmp_path/"round.jpg")
    return tmp_path


def listed(folder): return {p: (p.lstat().st_mode, p.lstat().st_ino, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


@pytest.mark.parametrize("out,says", {
    "photos/one.jpg": "must stay as it is", "photos/sub/../one.jpg": "must stay as it is", "linked/one.jpg": "must stay as it is",
    "soft.jpg": "must stay as it is", "hard.jpg": "must stay as it is", "pipe.jpg": "a device or a pipe", "null.jpg": "a device or a pipe",
    "photos/one.jpg/out.jpg": "is no folder", "dead/out.jpg": "is no folder", "round.jpg": "cannot be written to", "n"*300+".jpg": "name too long"}.items())
def test_an_output_that_is_none(place, out, says):
    before = listed(place)
    fails("edit", place/"photos"/"one.jpg", "-o", place/out, says=says)
    assert listed(place) == before


@pytest.mark.parametrize("out", ["", " "])
def test_an_output_without_a_name(place, out, monkeypatch):
    monkeypatch.chdir(place)
    for photo in ("photos/one.jpg", "photos"): fails("edit", photo, "-o", out, says="is empty. Name a file or a folder")
    fails("edit", out, says="is empty. Name a file or a folder")


@pytest.mark.parametrize("photo,says", {"pipe.jpg": "no such picture", "null.jpg": "no such picture", "dead": "no such picture", "round.jpg": "no such picture",
                                        "n"*300+".jpg": "no such picture", "photos/one.jpg/x": "no such picture", "photos/sub": "holds no pictures"}.items())
def test_an_input_that_is_none(place, photo, says): fails("edit", place/photo, "-o", place/"out.png", says=says)


def test_no_photo_of_a_folder_is_written_over(place):
    before = listed(place/"photos")
    for out in ("photos", "linked", "photos/sub/.."): fails("edit", place/"photos", "-o", place/out, says="must stay as it is")
    (place/"other").mkdir(); (place/"other"/"one.jpg").symlink_to(place/"photos"/"one.jpg")
    fails("edit", place/"photos", "-o", place/"other", says="must stay as it is")
    assert listed(place/"photos") == before


def test_every_photo_has_a_copy_of_its_own(tmp_path, monkeypatch):
    folder, long = tmp_path/"holiday.2023", "n"*246
    folder.mkdir(); (tmp_path/"holiday.2024").mkdir()
    for name in ("q.bmp", "q.png", "q.gif", "Q.tif", f"{long}.png", "q-bmp.png"): FACE.save(folder/name)
    os.mkfifo(folder/"pipe.png")
    code, said = fesgan("edit", folder, "--strength", 0, "-o", tmp_path/"holiday.2024")
    assert code == 0 and "6 photos in" in said and said.count("left out:") == 1 and "pipe.png" in said
    made = {p.name for p in (tmp_path/"holiday.2024").iterdir()}
    assert len(made) == 6 and {"q.png", "Q.tif", "q-bmp.png", "q-gif.png", f"{long}.png"} < made
    for p in folder.glob("n*"):
        monkeypatch.chdir(tmp_path)
        assert fesgan("edit", p, "--strength", 0)[0] == 0                        # and the default name fits
    assert len([p for p in tmp_path.glob("n*") if len(p.name) == 255]) == 1


def test_this_folder(place, monkeypatch):
    monkeypatch.chdir(place/"photos")
    code, said = fesgan("edit", ".", "--strength", 0)
    assert code == 0 and [p.name for p in (place/"photos-edited").iterdir()] == ["one.jpg"]
    fails("edit", "/", says="holds no pictures")


@contextlib.contextmanager
def full_disk(room):
    "No file may grow beyond so many bytes."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("words", [("-o", "out.png"), ("-o", "out.tif"), ("--all", "-o", "sheet.png"), ("--gif", "-o", "sweep.gif")], ids=lambda w: w[-1])
def test_full_disk(place, words, monkeypatch):
    monkeypatch.chdir(place)
    before = listed(place)
    with full_disk(5000): fails("edit", "photos/one.jpg", *words, says="could not be written (File too large); nothing of it was left")
    assert listed(place) == before


def test_a_format_that_cannot_hold_it(tmp_path):
    photo = read_photo(_saved(tmp_path/"one.png"))
    with pytest.raises(FesganError, match="could not be written"): save_photo(photo, np.zeros((2, 20000, 3), np.uint8), tmp_path/"wide.webp")
    assert [p.name for p in tmp_path.iterdir()] == ["one.png"]


# ---- what goes along

XMP = (b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
       b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:own="http://example.org/" '
       b'own:album="7" Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture">'
       b'<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">(c) somebody</rdf:li></rdf:Alt></dc:rights>'
       b'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">At the sea.</rdf:li></rdf:Alt></dc:description>'
       b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>')


def _exif():
    notes = Image.Exif()
    notes[0x010F], notes[0x8298] = "a camera", "(c) somebody"
    notes.get_ifd(0x8769)[0x9003] = "2026:11:24 12:00:00"
    return notes


def _saved(path, image=FACE, **more):
    image.save(path, **more)
    return path


def _text():
    text = PngImagePlugin.PngInfo()
    text.add_text("Copyright", "(c) somebody"); text.add_text("Description", "At the sea.")
    return text


def again(path, ending, mark="metadata"):
    "A picture as it comes out of an edit."
    photo = read_photo(path)
    return Image.open(save_photo(photo, photo.pixels, path.with_name(f"again{ending}"), "Made happier.", mark))


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tif"])
def test_notes_go_along(tmp_path, source, ending):
    more = dict(exif=_exif(), icc_profile=SRGB, dpi=(300, 300))
    if source != ".tif": more["xmp"] = XMP
    else: more["exif"] = Image.Exif(); more["exif"].load(_exif().tobytes()); more["exif"][700] = XMP
    if source == ".png": more["pnginfo"] = PngImagePlugin.PngInfo(); more["pnginfo"].add_itxt("XML:com.adobe.xmp", more.pop("xmp").decode())
    made = again(_saved(tmp_path/f"one{source}", **more), ending)
    notes = made.getexif()
    assert (notes[0x010F], notes[0x8298], notes.get_ifd(0x8769)[0x9003]) == ("a camera", "(c) somebody", "2026:11:24 12:00:00")
    assert made.info["icc_profile"] == SRGB
    if ".webp" not in (source, ending): assert np.allclose(np.float64(made.info["dpi"]), 300, atol=.1)
    told = made.info["xmp"].decode()
    assert "(c) somebody" in told and 'own:album="7"' in told and "At the sea. Made happier." in told
    assert told.count("DigitalSourceType=") == 1 and "compositeWithTrainedAlgorithmicMedia" in told and "digitalCapture" not in told
    assert np.abs(np.asarray(made.convert("RGB")).astype(int)-np.asarray(Image.open(tmp_path/f"one{source}").convert("RGB"))).mean() < 2


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
def test_text_of_a_png_goes_along(tmp_path, ending):
    made = again(_saved(tmp_path/"one.png", pnginfo=_text()), ending)
    told = made.text if ending == ".png" else {"Copyright": made.getexif()[0x8298], "Description": made.getexif()[0x010E]}
    assert told["Copyright"] == "(c) somebody" and told["Description"] == "At the sea. Made happier."


def test_nothing_of_ours_without_a_mark(tmp_path):
    made = again(_saved(tmp_path/"one.jpg", xmp=XMP, comment="by the sea"), ".jpg", "none")
    assert made.info["comment"] == b"by the sea" and "Made happier" not in str(made.info) and b"digitalCapture" in made.info["xmp"]


def test_what_the_press_writes_into_a_jpeg(tmp_path):
    iptc = b"\x1c\x02\x74\x00\x0c(c) somebody"                                  # record 2, data set 116: copyright
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x0c\0\0\0\0\0\x04tiny" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0"
    path = _saved(tmp_path/"one.jpg", extra=b"\xff\xed" + struct.pack(">H", len(block)+2) + block)
    assert Image.open(path).info["photoshop"].keys() == {0x040c, 0x0404}
    assert again(path, ".jpg").info["photoshop"] == {0x0404: iptc}              # without the small picture of the unedited face


@pytest.mark.parametrize("damaged", [b"", b"<x:xmpmeta", XMP.replace(b"</rdf:RDF>", b""), XMP.replace(b"xmlns:own", b"xmlns:ns0"), b"\xff\xfe\0\1"], ids=range(5))
def test_a_mark_whatever_was_there(tmp_path, damaged):
    made = again(_saved(tmp_path/"one.jpg", **(dict(xmp=damaged) if damaged else {})), ".jpg")
    assert "compositeWithTrainedAlgorithmicMedia" in str(made.getxmp())


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_colour_profiles(tmp_path, mode):
    photo = read_photo(_saved(tmp_path/"one.png", FACE.convert(mode), icc_profile=SRGB))
    assert photo.icc == SRGB and not photo.lost
    grey = SRGB[:16]+b"GRAY"+SRGB[20:]
    photo = read_photo(_saved(tmp_path/"two.png", FACE.convert("L"), icc_profile=grey))
    assert photo.icc is None and "has a colour profile for L; edited copies are RGB" in photo.lost[0]


# ---- what is lost is said

def png16(path):
    "Pillow writes no such file."
    rows = np.asarray(FACE).astype(">u2")*257
    raw = b"".join(b"\0"+r.tobytes() for r in rows)
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name+data))
    head = struct.pack(">IIBBBBB", *FACE.size, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b""))


def grey16(path): Image.fromarray(np.asarray(FACE.convert("L")).astype(np.uint16)*257).save(path)
def moving(path): FACE.save(path, save_all=True, append_images=[FACE.rotate(2)])


@pytest.mark.parametrize("make,name,says", [(png16, "a.png", "has 16 bits a channel; edited copies have 8"), (grey16, "b.png", "has 16 bits"), (grey16, "c.tif", "has 16 bits"),
                                            (moving, "d.gif", "holds 2 pictures; only the first"), (moving, "e.webp", "holds 2 pictures"), (moving, "f.png", "holds 2 pictures"), (moving, "g.tif", "holds 2 pictures")])
def test_what_is_lost_is_said(tmp_path, make, name, says):
    make(tmp_path/name)
    photo = read_photo(tmp_path/name)
    assert len(photo.lost) == 1 and says in photo.lost[0]
    with (tmp_path/name).open("rb") as file: assert read_photo(file).lost == photo.lost
    assert np.abs(photo.pixels.astype(int).mean(2)-np.asarray(FACE.convert("L"))).mean() < 12


def test_it_is_said_by_the_command(tmp_path):
    png16(tmp_path/"fine.png")
    code, said = fesgan("edit", tmp_path/"fine.png", "-o", tmp_path/"out.png")
    assert code == 0 and "note:" in said and "fine.png has 16 bits a channel; edited copies have 8." in " ".join(said.split())


@pytest.mark.parametrize("image", [Image.fromarray(np.asarray(FACE.convert("L"), np.float32)/255), Image.fromarray(np.asarray(FACE.convert("L")).astype(np.int32))], ids=["float", "32 bits"])
def test_numbers_without_black_and_white(tmp_path, image):
    fails("edit", _saved(tmp_path/"one.tif", image), "-o", tmp_path/"out.png", says="has 32 bits a channel, and where black and white lie among such numbers is not said")
    assert not (tmp_path/"out.png").exists()


# ---- on its head

@pytest.mark.parametrize("turn,says", {180: "is upside down. Turn the picture", 90: "is on its side. Turn the picture", 270: "is on its side"}.items())
@pytest.mark.parametrize("person", range(3))
def test_a_face_that_is_not_upright(tmp_path, person, turn, says):
    folder = [p for p in sorted(shipped("rendered", "images").iterdir()) if p.is_dir()][person*7]
    face = Image.open(folder/"happy.jpg").resize((400, 400), Image.BICUBIC)
    fails("edit", _saved(tmp_path/"one.png", face.rotate(turn)), "-o", tmp_path/"out.png", says=says)
    assert not (tmp_path/"out.png").exists()
    notes = Image.Exif(); notes[0x0112] = {180: 3, 90: 6, 270: 8}[turn]          # a camera that says so
    assert len(find_spots(read_photo(_saved(tmp_path/"two.jpg", face.rotate(turn), exif=notes, quality=95)))) == 1


def test_beside_an_upright_one(tmp_path):
    both = Image.new("RGB", (800, 400)); both.paste(FACE, (0, 0)); both.paste(FACE.rotate(180), (400, 0))
    spot, = find_spots(read_photo(_saved(tmp_path/"both.png", both)))
    assert spot.box[2] < 400


# ---- a model that is none

def test_strange_models(place):
    run = place/"run"; run.mkdir()
    words = ("edit", place/"photos"/"one.jpg", "-o", place/"out.png", "--model", run)
    fails(*words, says="holds no generator.safetensors")
    (run/"generator.safetensors").write_bytes(b"junk"); (run/"params.yaml").write_text("image_size: 64\nlabel: x\n")
    fails(*words, says="generator.safetensors")
    (run/"generator.safetensors").write_bytes((shipped("models", "usgan.safetensors")).read_bytes())
    for params in ("", "label: x", "image_size: many\nlabel: x", "image_size: -1\nlabel: x", "[1", "image_size: 1000000000\nlabel: x"):
        (run/"params.yaml").write_text(params)
        fails(*words, says="params.yaml")
    (run/"params.yaml").unlink()
    fails(*words, says="params.yaml")
    os.mkfifo(run/"params.yaml")
    fails(*words, says="params.yaml")
    assert not (place/"out.png").exists()


def test_an_edit_of_nothing_is_exact(tmp_path):
    palette = FACE.quantize(64)
    palette.save(tmp_path/"p.png", transparency=3)
    for source in (_saved(tmp_path/"one.png"), tmp_path/"p.png"):
        assert fesgan("edit", source, "--strength", 0, "-o", tmp_path/"out.png")[0] == 0
        made, photo = Image.open(tmp_path/"out.png"), read_photo(source)
        assert (np.asarray(made.convert("RGB")) == photo.pixels).all()
        if photo.alpha is not None: assert (np.asarray(made.getchannel("A")) == photo.alpha).all()


# ---- export

@pytest.mark.parametrize("out,says", {"folder.onnx": "is a folder", "null.onnx": "a device or a pipe", "pipe.onnx": "a device or a pipe", "model.onnx": "must stay as it is",
                                      "photos/one.jpg/out.onnx": "is no folder", "n"*300+".onnx": "name too long", "out.jpg": "must end in .onnx"}.items())
def test_an_export_that_goes_nowhere(place, out, says):
    run = place/"run"; run.mkdir()
    (run/"generator.safetensors").write_bytes(shipped("models", "usgan.safetensors").read_bytes())
    (place/"folder.onnx").mkdir(); os.mkfifo(place/"pipe.onnx")
    (place/"null.onnx").symlink_to("/dev/null"); (place/"model.onnx").symlink_to(run/"generator.safetensors")
    before = listed(place)
    fails("export", place/out, "--model", run, says=says)
    assert listed(place) == before


def test_an_export_to_a_full_disk(place):
    pytest.importorskip("onnxruntime"); pytest.importorskip("onnxscript")
    before = listed(place)
    with full_disk(5000): fails("export", place/"out.onnx", "--model", "usgan", says="out.onnx could not be written (File too large)")
    assert listed(place) == before
