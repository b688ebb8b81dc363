"dlib through our few lines says what the package face_recognition says."
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fesgan.data.faces import FaceApi, dlib_api

FACES = sorted((Path(__file__).parents[1]/"data"/"rendered"/"images").glob("person00[0-3]/*.jpg"))[::7]


@pytest.fixture
def theirs(monkeypatch):
    from PIL import ImageFile
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # importing it switches this for the whole process
    return pytest.importorskip("face_recognition")


@pytest.mark.parametrize("path", FACES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_the_same_boxes_landmarks_and_descriptors(path, theirs):
    image = np.asarray(Image.open(path).resize((256, 256)))
    ours = FaceApi()
    boxes = ours.face_locations(image, number_of_times_to_upsample=0)
    assert boxes and boxes == theirs.face_locations(image, number_of_times_to_upsample=0)
    assert ours.face_landmarks(image, boxes) == theirs.face_landmarks(image, boxes)
    for model in ("small", "large"):
        a, b = (api.face_encodings(image, boxes, model=model) for api in (ours, theirs))
        assert np.array_equal(a, b)


def test_boxes_end_at_the_edge_of_the_picture(theirs):
    "A face that the frame cuts has a box within it."
    image = np.ascontiguousarray(np.asarray(Image.open(FACES[0]).resize((256, 256)))[:200, 60:]) # dlib misreads views
    boxes = FaceApi().face_locations(image, number_of_times_to_upsample=1)
    assert boxes == theirs.face_locations(image, number_of_times_to_upsample=1)
    assert [(bottom, left) for _, _, bottom, left in boxes] == [(200, 0)]


def test_the_package_is_used_where_it_is_installed(theirs, monkeypatch):
    dlib_api.cache_clear()
    assert dlib_api() is theirs
    dlib_api.cache_clear()
    monkeypatch.setitem(sys.modules, "face_recognition", None)
    assert isinstance(dlib_api(), FaceApi)
    dlib_api.cache_clear()
