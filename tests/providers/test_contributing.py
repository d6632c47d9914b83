"""The provider that CONTRIBUTING.md shows is complete: installed, it runs an experiment."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import society
from providers import registry
from providers.base import Provider
from providers.errors import BadRequest, InvalidSettings, Unsupported
from providers.types import Message, Request, Sampling
from tests.quiet_server import QuietServer

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
[CODE] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
[ENTRY_POINT] = re.findall(r"^ollama = \"(.*)\"$", TEXT, re.MULTILINE)

EXPERIMENT = """
model = "ollama:llama3.2"
iterations = 0
stop_if_unread = 0
provider = {{ url = "{url}" }}
sampling = {{ max_tokens = 100 }}
task = {{ name = "arithmetic" }}
society = {{ agents = 2, rounds = 2, others = "quoted" }}
train = {{ questions = 2 }}
evaluation = {{ questions = 3, decodings = ["sampled"] }}
"""


class Ollama(QuietServer):
    """Answers /api/chat as Ollama does, after one failure; keeps what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked = []
        self.refuses = False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        first = not self.server.asked
        self.server.asked.append((self.path, body))
        if first:
            # The connection breaks, so the limiter asks again.
            self.close_connection = True
            return
        if self.server.refuses:
            self.send_error(404, "model not found")
            return
        answer = {
            "message": {"role": "assistant", "content": "It is \\boxed{7}"},
            "done_reason": "stop",
            "prompt_eval_count": 30,
            "eval_count": 5,
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format, *arguments):
        return


@contextmanager
def serving():
    with Ollama() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The module in a folder of its own, with the entry point that the text shows."""
    site = tmp_path / "site"
    site.mkdir()
    (site / f"{ENTRY_POINT}.py").write_text(CODE)
    info = site / "ollama_provider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ollama_provider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[society.providers]\nollama = {ENTRY_POINT}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)


def test_it_has_at_most_60_lines():
    assert len(CODE.splitlines()) <= 60


@pytest.mark.usefixtures("installed")
def test_it_runs_an_experiment(tmp_path):
    with serving() as server:
        (tmp_path / "small.toml").write_text(EXPERIMENT.format(url=server.url))
        society.run(society.load_config("small.toml"), "small")
    with society.open_run("small") as run:
        turns = run.store.rows("SELECT response, prompt_tokens, completion_tokens FROM turns")
        spent = run.store.rows("SELECT sum(usd) FROM spend")
    assert turns == [("It is \\boxed{7}", 30, 5)] * 12
    assert spent == [(0.0,)]
    assert len(server.asked) == 13
    assert {path for path, _ in server.asked} == {"/api/chat"}
    options = [body["options"] for _, body in server.asked]
    assert len({each["seed"] for each in options}) == 12
    assert {each["num_predict"] for each in options} == {100}


@pytest.mark.usefixtures("installed")
async def test_it_is_a_provider_whose_scheme_says_what_it_needs(tmp_path):
    info = registry.info("ollama:llama3.2")
    assert (info.free, info.in_process, info.batches) == (True, False, False)
    assert info.packages == ("tenacity",)
    assert registry.info("unheard_of:x") == type(info)()
    with pytest.raises(InvalidSettings, match="no key 'port'; Ollama knows: url"):
        registry.check("ollama:llama3.2", {"port": 1})
    with serving() as server:
        provider = registry.connect("ollama:llama3.2", {"url": server.url}, tmp_path)
        assert isinstance(provider, Provider)
        request = Request(provider.base, (Message("user", "1+6?"),), Sampling(), "k")
        assert (await provider.complete(request)).text == "It is \\boxed{7}"
        server.refuses = True
        with pytest.raises(BadRequest, match="model not found"):
            await provider.complete(request)
    with pytest.raises(Unsupported, match="log-probabilities"):
        await provider.score(provider.base, (), "7")
