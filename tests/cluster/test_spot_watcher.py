"""The watcher of spot notices, against metadata services and a `ray` that are made up here."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

AWS_TOKEN, AWS_ACTION = "/latest/api/token", "/latest/meta-data/spot/instance-action"
AWS_REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
GCP = "/computeMetadata/v1/instance/preempted"
AZURE = "/metadata/scheduledevents"


class Metadata(ThreadingHTTPServer):
    """Answers what ``pages`` has, and 404 otherwise; ``broken`` answers are 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, str] = {}
        self.broken = 0
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        if self.server.broken:
            self.server.broken -= 1
            self.send_error(503)
        elif path in self.server.pages:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.pages[path].encode())
        else:
            self.send_error(404)

    do_GET = do_PUT = _answer

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    server = Metadata()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def watcher(repo_root: Path) -> ModuleType:
    """The program, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("spot_watcher", repo_root / "cluster" / "spot_watcher.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_ray(tmp_path: Path) -> Path:
    """A `ray` that writes down how it was called, and fails as often as the file ``fails`` beside it says."""
    program = tmp_path / "ray"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "with (here / 'calls').open('a') as calls:\n"
        "    calls.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "fails = here / 'fails'\n"
        "left = int(fails.read_text()) if fails.exists() else 0\n"
        "fails.write_text(str(max(0, left - 1)))\n"
        "sys.exit('the GCS does not answer' if left else 0)\n"
    )
    program.chmod(0o755)
    return program


def calls(fake_ray: Path) -> list[list[str]]:
    path = fake_ray.parent / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def stamp(seconds_from_now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds_from_now))


def aws_pages(action: str | None) -> dict[str, str]:
    return {AWS_TOKEN: "token"} | ({AWS_ACTION: action} if action is not None else {})


def test_aws_tells_the_time_left(watcher: ModuleType, metadata: Metadata) -> None:
    metadata.pages = aws_pages(json.dumps({"action": "terminate", "time": stamp(90)}))
    notice = watcher.aws(metadata.address, time.time())
    assert notice.reason == "AWS spot terminate"
    assert 85 < notice.seconds <= 90
    (_, _, put), (_, _, get) = metadata.asked
    assert put["x-aws-ec2-metadata-token-ttl-seconds"] == "300"
    assert get["x-aws-ec2-metadata-token"] == "token"


@pytest.mark.parametrize(
    ("action", "seconds"),
    [
        (None, None),
        ('{"action": "terminate", "time": "soon"}', 120.0),
        ('{"action": "terminate", "time": "2000-01-01T00:00:00Z"}', 0.0),
        ('{"action": "nothing"}', None),
        ("<html>", None),
        ("[]", None),
    ],
)
def test_what_aws_may_answer(
    watcher: ModuleType, metadata: Metadata, action: str | None, seconds: float | None
) -> None:
    metadata.pages = aws_pages(action)
    notice = watcher.aws(metadata.address, time.time())
    assert (notice and notice.seconds) == seconds


def test_the_rebalance_hint_counts_only_when_asked_for(watcher: ModuleType, metadata: Metadata) -> None:
    metadata.pages = aws_pages(None) | {AWS_REBALANCE: json.dumps({"noticeTime": stamp(0)})}
    assert watcher.aws(metadata.address, time.time()) is None
    assert watcher.aws(metadata.address, time.time(), rebalance=True).reason == "AWS rebalance recommendation"


def test_gcp_says_true(watcher: ModuleType, metadata: Metadata) -> None:
    metadata.pages = {GCP: "FALSE"}
    assert watcher.gcp(metadata.address, time.time()) is None
    metadata.pages = {GCP: "TRUE"}
    assert watcher.gcp(metadata.address, time.time()).seconds == 30.0
    assert {headers.get("metadata-flavor") for _, _, headers in metadata.asked} == {"Google"}


def test_azure_names_a_preemption_among_other_events(watcher: ModuleType, metadata: Metadata) -> None:
    reboot = {"EventType": "Reboot", "NotBefore": ""}
    metadata.pages = {AZURE: json.dumps({"Events": [reboot]})}
    assert watcher.azure(metadata.address, time.time()) is None
    at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 40))
    metadata.pages = {AZURE: json.dumps({"Events": [reboot, {"EventType": "Preempt", "NotBefore": at}]})}
    assert 35 < watcher.azure(metadata.address, time.time()).seconds <= 40
    metadata.pages = {AZURE: json.dumps({"Events": [{"EventType": "Preempt"}]})}
    assert watcher.azure(metadata.address, time.time()).seconds == 30.0


def test_it_finds_out_which_cloud_it_is_in(watcher: ModuleType, metadata: Metadata) -> None:
    for name, pages in {"aws": {AWS_TOKEN: "t"}, "gcp": {GCP: "FALSE"}, "azure": {AZURE: "{}"}}.items():
        metadata.pages = pages
        assert watcher.find_cloud(metadata.address, every=0.001) == name
    metadata.pages = {}
    with pytest.raises(watcher.NoMetadataError, match="no metadata service of aws, gcp, azure answers"):
        watcher.find_cloud(metadata.address, every=0.001)


def test_a_service_that_answers_late_is_found(watcher: ModuleType, metadata: Metadata) -> None:
    metadata.pages, metadata.broken = {GCP: "FALSE"}, 7
    assert watcher.find_cloud(metadata.address, every=0.001) == "gcp"


def test_a_notice_drains_the_node(watcher: ModuleType, metadata: Metadata, fake_ray: Path) -> None:
    metadata.pages = {GCP: "TRUE"}
    arguments = ["--ray", str(fake_ray), "--metadata", metadata.address, "--address", "10.0.0.1:6379"]
    assert watcher.main([*arguments, "--every", "0.01"]) == 0
    (call,) = calls(fake_ray)
    assert call[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    options = dict(zip(call[1::2], call[2::2], strict=True))
    assert options["--deadline-remaining-seconds"] == "30"
    assert options["--address"] == "10.0.0.1:6379"
    assert "--node-id" not in options


def test_it_outlives_a_metadata_service_and_a_ray_that_fail_for_a_while(
    watcher: ModuleType, metadata: Metadata, fake_ray: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata.pages, metadata.broken = {GCP: "TRUE"}, 3
    (fake_ray.parent / "fails").write_text("2")
    arguments = ["--cloud", "gcp", "--ray", str(fake_ray), "--metadata", metadata.address, "--every", "0.01"]
    assert watcher.main(arguments) == 0
    assert len(calls(fake_ray)) == 3
    said = capsys.readouterr().err
    assert said.count("HTTP 503; asking on") == 1, "the same trouble is told once"
    assert "failed with 1: the GCS does not answer" in said


def test_without_a_cloud_it_ends_and_says_so(watcher: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert watcher.main(["--metadata", "http://127.0.0.1:9", "--every", "0.001"]) == 1
    assert "no metadata service" in capsys.readouterr().err


def test_the_ray_command_has_the_options_that_are_used() -> None:
    from ray.scripts.scripts import drain_node

    options = {option for parameter in drain_node.params for option in parameter.opts}
    assert {"--address", "--node-id", "--reason", "--reason-message", "--deadline-remaining-seconds"} <= options
