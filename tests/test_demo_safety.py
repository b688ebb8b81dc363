"The demo keeps nothing and answers nobody but its own page: plain HTTP against a program of its own."
import http.client, io, json, os, re, signal, subprocess, sys, tempfile, time

import pytest
from PIL import Image

from fesgan.app.demo import LIMIT, make_room
from fesgan.files import shipped

pytest.importorskip("gradio")
PERSON = next(p for p in sorted(shipped("rendered", "images").iterdir()) if p.is_dir())
FACE = (PERSON/"neutral.jpg").read_bytes()
EVIL = dict(host={"Host": "evil.com"}, rebound={"Host": "evil.com:7860", "Origin": "http://evil.com:7860"}, origin={"Origin": "http://evil.com"}, null={"Origin": "null"},
            port={"Origin": "http://127.0.0.1:1"}, site={"Sec-Fetch-Site": "cross-site"}, near={"Sec-Fetch-Site": "same-site"}, frame={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"})


class Demo:
    "`fesgan demo` in a process of its own, with a temporary folder of its own."
    def __init__(self, folder):
        words = [sys.executable, "-c", "from fesgan.app.cli import app; app()", "demo", "--port", "0", "--no-browser", "--device", "cpu"]
        self.folder, self.log = folder, folder.parent/"log"
        env = dict(os.environ, TMPDIR=str(folder), PYTHONUNBUFFERED="1")
        self.process = subprocess.Popen(words, env=env, stdout=self.log.open("w"), stderr=subprocess.STDOUT)
        end = time.monotonic()+300                                              # a busy machine takes its time
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", self.log.read_text())):
            if self.process.poll() is not None or time.monotonic() > end: self.process.kill(); pytest.fail(f"no page: {self.log.read_text()}")
            time.sleep(.1)
        self.port = int(found[1])

    def ask(self, method="GET", path="/", body=None, headers=None):
        "Status, headers, text."
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request(method, path, body, headers or {})
            answer = line.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode(errors="replace")
        finally: line.close()

    def upload(self, *pictures, headers=None, name="anna.jpg"):
        parts = [b'--xx\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\nContent-Type: image/jpeg\r\n\r\n%s\r\n' % (name.encode(), p) for p in pictures]
        return self.ask("POST", "/gradio_api/upload", b"".join(parts)+b"--xx--\r\n", {"Content-Type": "multipart/form-data; boundary=xx"} | (headers or {}))

    def show(self, path, strengths=(0, 0, 0, 1, 0, 0, 0)):
        "What the page's own program answers: the last message of the queue."
        config = json.loads(self.ask(path="/config")[2])
        event = next(d for d in config["dependencies"] if len(d["inputs"]) == 29) # five, and a slider for each expression and unit
        data = [dict(path=path, meta={"_type": "gradio.FileData"}), "photo", "metadata", 0, 0, *strengths, *[0]*17]
        body = json.dumps(dict(data=data, fn_index=event["id"], session_hash="s", trigger_id=event["targets"][0][0]))
        status, _, text = self.ask("POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"})
        assert status == 200, text
        lines = [json.loads(line[6:]) for line in self.ask(path="/gradio_api/queue/data?session_hash=s")[2].splitlines() if line.startswith("data: ")]
        return next(m for m in lines if m["msg"] == "process_completed")

    def kept(self): return [p for p in self.folder.rglob("*") if p.is_file()]

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")/"tmp"; folder.mkdir()
    demo = Demo(folder)
    yield demo
    demo.process.kill(); demo.process.wait()


@pytest.mark.parametrize("headers", EVIL.values(), ids=EVIL)
def test_nobody_else_is_answered(demo, headers):
    before = demo.kept()
    ask = {"Access-Control-Request-Method": "POST"}
    answers = [demo.ask(headers=headers), demo.ask(path="/config", headers=headers), demo.upload(FACE, headers=headers), demo.ask("OPTIONS", "/gradio_api/upload", headers=headers | ask)]
    for status, said, text in answers:
        assert status == 403 and text.startswith("This page answers") and not [k for k in said if k.startswith("access-control")]
    assert demo.kept() == before


def test_its_own_page_is(demo):
    own = {"Origin": f"http://127.0.0.1:{demo.port}", "Sec-Fetch-Site": "same-origin"}
    local = {"Host": f"localhost:{demo.port}", "Origin": f"http://localhost:{demo.port}"}
    for headers in ({}, own, local, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}):
        status, said, text = demo.ask(headers=headers)
        assert status == 200 and "gradio" in text.lower()
        assert said["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in said["content-security-policy"] and said["cache-control"] == "no-store"
        assert not [k for k in said if k.startswith("access-control")]
    assert demo.upload(FACE, headers=own)[0] == 200


def test_many_pictures_are_no_way_round_the_limit(demo):
    before, half = demo.kept(), b"\0"*(LIMIT//2)
    status, said, text = demo.upload(*[half]*5)
    assert status == 413 and "one picture at a time, at most 20 MB" in text
    line = http.client.HTTPConnection("127.0.0.1", demo.port, timeout=60)           # nor is a request that does not say how long it is
    def pieces():
        yield b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        for i in range(50):
            yield b"\0"*1_000_000
            if i%10 == 9: yield b'\r\n--xx\r\nContent-Disposition: form-data; name="files"; filename="%d.jpg"\r\n\r\n' % i
    try:
        line.request("POST", "/gradio_api/upload", pieces(), {"Content-Type": "multipart/form-data; boundary=xx"}, encode_chunked=True)
        assert line.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError): pass                            # hung up on
    finally: line.close()
    assert demo.ask()[0] == 200 and sum(p.stat().st_size for p in set(demo.kept())-set(before)) < 1000


@pytest.mark.parametrize("content,says", [(b"no picture at all", "The upload cannot be read as a picture (its content is no known format)"), (FACE[:500], "The upload cannot be read as a picture")])
def test_a_bad_picture_is_one_sentence(demo, content, says):
    path, = json.loads(demo.upload(content)[2])
    done = demo.show(path)
    assert done["success"] and says in done["output"]["data"][1]
    assert str(demo.folder) not in json.dumps(done["output"]["data"])


def test_an_edit_comes_back_and_is_forgotten(demo):
    face = io.BytesIO(); Image.open(PERSON/"neutral.jpg").resize((400, 400)).save(face, "JPEG")
    path, = json.loads(demo.upload(face.getvalue())[2])
    done = demo.show(path)
    file = done["output"]["data"][2]["value"]["path"] if isinstance(done["output"]["data"][2].get("value"), dict) else done["output"]["data"][2]["path"]
    assert done["success"] and file.endswith("anna-edited.jpg") and any(p.name == "anna-edited.jpg" for p in demo.kept())


def test_what_a_killed_one_left_goes_with_the_next(demo, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""]); ended.wait()
    left, kept = demo.folder/f"fesgan-demo-{ended.pid}-abc", demo.kept()
    (left/"below").mkdir(parents=True); (left/"below"/"face.jpg").write_bytes(FACE)
    monkeypatch.setattr(tempfile, "tempdir", str(demo.folder))
    room = make_room()
    assert not left.exists() and room.is_dir() and kept and demo.kept() == kept     # the other one lives
    room.rmdir()


def check_end(demo, number):
    assert demo.upload(FACE)[0] == 200 and demo.kept()
    assert demo.end(number) == 0 and not list(demo.folder.glob("fesgan-demo-*")) and not demo.kept()
    assert "Traceback" not in demo.log.read_text()


def test_nothing_is_kept(demo, tmp_path):
    (tmp_path/"tmp").mkdir()
    other = Demo(tmp_path/"tmp") # a terminal that is closed
    try: check_end(other, signal.SIGHUP)
    finally: other.process.kill()
    check_end(demo, signal.SIGTERM)
