"""The demo in a real browser: a photo goes in, a slider moves, an edited picture comes out."""
import shutil, time

import numpy as np
import pytest
from PIL import Image

from fesgan.app.demo import LIMIT, demo_page, serve
from fesgan.data.expressions import EXPRESSIONS
from fesgan.files import FesganError, shipped

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(not (CHROMIUM and shutil.which("chromedriver")), reason="no chromium and chromedriver here")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo")/"anna.jpg"
    person = next(p for p in sorted(shipped("rendered", "images").iterdir()) if p.is_dir())
    Image.open(person/"neutral.jpg").resize((500, 500), Image.BICUBIC).save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    served = serve(demo_page(folder=tmp_path_factory.mktemp("demo")), port=0)
    yield served.address
    served.close()


@pytest.fixture(scope="module")
def camera(photo, tmp_path_factory):
    "A film of one picture, for the browser's camera."
    path = tmp_path_factory.mktemp("camera")/"film.mjpeg"
    room = Image.new("RGB", (640, 480), "beige"); room.paste(Image.open(photo).resize((480, 480)), (80, 0)); room.save(path, "JPEG", quality=95)
    path.write_bytes(path.read_bytes()*30)
    return path


@pytest.fixture(scope="module")
def browser(address, camera, tmp_path_factory):
    from selenium import webdriver
    options, downloads = webdriver.ChromeOptions(), tmp_path_factory.mktemp("downloads")
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
                 "window-size=1300,1400", "use-fake-ui-for-media-stream", "use-fake-device-for-media-stream", f"use-file-for-fake-video-capture={camera}", "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"user-data-dir={tmp_path_factory.mktemp('profile')}"): options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads), "download.prompt_for_download": False})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.downloads = downloads
    yield driver
    driver.quit()


def wait(found, seconds=60):
    "What a function finds, as soon as it finds something."
    from selenium.common.exceptions import WebDriverException
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if got := found(): return got
        except WebDriverException: pass
        time.sleep(.1)
    raise AssertionError(f"nothing found within {seconds} s")


def shown(browser): # addresses of the two pictures under the curtain
    return [i.get_attribute("src") for i in browser.find_elements("css selector", "#view img")]


def upload(browser, address, file):
    browser.get(address)
    example = wait(lambda: shown(browser))                                         # a drawn face, until there is a photo
    wait(lambda: browser.find_element("css selector", "#photo input[type=file]")).send_keys(str(file))
    return lambda: (now := shown(browser)) != example and now                      # what is shown of the photo, as soon as it is


def slide(browser, expression, value):
    "As a hand does it: set and let go."
    slider = wait(lambda: browser.find_element("css selector", f"#slider-{expression} input[type=range]"))
    browser.execute_script("arguments[0].value = arguments[1]; for (const e of ['input', 'change', 'pointerup', 'mouseup']) arguments[0].dispatchEvent(new Event(e, {bubbles: true}))", slider, value)


def save(browser):
    "Click on the download, and what came."
    before = set(browser.downloads.iterdir())
    wait(lambda: browser.find_element("css selector", "#save:not([disabled]), #save button:not([disabled])")).click()
    return wait(lambda: next(iter(p for p in set(browser.downloads.iterdir())-before if p.suffix != ".crdownload" and not p.name.startswith(".") and p.stat().st_size), None)) # Chromium begins with a hidden, empty file


def test_upload_slide_download(browser, address, photo):
    before = wait(upload(browser, address, photo))
    assert "afraid" in browser.page_source and "surprised" in browser.page_source
    slide(browser, "happy", 1)
    wait(lambda: (now := shown(browser)) and now != before)
    file = wait(lambda: (f := save(browser)) and "happy 1" in str(Image.open(f).getxmp()) and f) # the mark is on, and says what was asked last
    picture, original = Image.open(file), np.asarray(Image.open(photo)).astype(int)
    changed = np.abs(np.asarray(picture).astype(int)-original)
    assert file.suffix == ".jpg" and picture.size == (500, 500)
    assert changed[200:400, 150:350].mean() > 2*changed[:40].mean()                # the face, and not the wall behind
    assert "compositeWithTrainedAlgorithmicMedia" in str(picture.getxmp())


def test_webcam(browser, address):
    browser.get(address)
    example = wait(lambda: shown(browser))
    for part in ("[aria-label='Capture from camera']", "[title='grant webcam access'] button", "[aria-label='capture photo']"): wait(lambda part=part: browser.find_element("css selector", f"#photo {part}")).click()
    before = wait(lambda: (now := shown(browser)) != example and now)
    slide(browser, "happy", 1)
    wait(lambda: (now := shown(browser)) and now != before)
    assert Image.open(save(browser)).size == (640, 480)


def test_an_example_to_see_and_a_reset(browser, address):
    browser.get(address)
    example = wait(lambda: shown(browser))
    slider = browser.find_element("css selector", "#slider-happy input[type=range]")
    assert float(slider.get_attribute("value")) == .8
    assert not browser.find_elements("css selector", "#view [aria-label=Download], #view a[download]") # only the button's file carries the mark
    browser.find_element("css selector", "#reset").click()
    wait(lambda: (now := shown(browser)) and now != example)
    assert float(slider.get_attribute("value")) == 0


def test_a_wall_is_one_sentence(browser, address, tmp_path):
    Image.new("RGB", (400, 300), "beige").save(tmp_path/"wall.png")
    upload(browser, address, tmp_path/"wall.png")
    said = wait(lambda: (t := browser.find_element("css selector", "#said").text) and t)
    assert said.startswith("No face was found in The upload") and not shown(browser)


def test_what_is_too_large_is_refused(browser, address, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path/"large.png")
    assert (tmp_path/"large.png").stat().st_size > LIMIT
    upload(browser, address, tmp_path/"large.png")
    wait(lambda: "size" in browser.find_element("tag name", "body").text.lower() and "exceed" in browser.find_element("tag name", "body").text.lower())


def test_nothing_leaves_this_machine(address, browser, photo):
    assert address.startswith("http://127.0.0.1:")
    assert len(EXPRESSIONS) == len(browser.find_elements("css selector", "[id^=slider-]")) # those of the units come when they are unfolded


def test_port_that_is_taken(address, tmp_path):
    page = demo_page(folder=tmp_path)
    with pytest.raises(FesganError, match="is taken. Choose another one with --port"): serve(page, port=int(address.strip("/").rpartition(":")[2]))
