"""The SDK's own client against the stand-in of Tinker's wire: what the provider's tests rely on."""

import io
import tarfile
import threading
import time
import urllib.request

import pytest

tinker = pytest.importorskip("tinker")

from tinker import types  # noqa: E402

from tests.providers.tinker_server import serving_tinker  # noqa: E402

ADAM = types.AdamParams(learning_rate=1e-2)
PROMPT = types.ModelInput.from_ints([5, 6, 7, 8])
GREEDY = types.SamplingParams(max_tokens=8, temperature=0.0, stop=[1])


@pytest.fixture
def server(tmp_path, monkeypatch):
    # Else every client would send its telemetry after its server has gone.
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    with serving_tinker(tmp_path) as server:
        yield server


def connect(server):
    return tinker.ServiceClient(base_url=server.url, api_key="tml-of-tests", max_retries=0)


def create(client, seed=1):
    return client.create_lora_training_client("embedded", rank=4, seed=seed)


def batch(number):
    tokens = [10 + (number * 7 + place) % 90 for place in range(12)]
    inputs = {"target_tokens": tokens[1:], "weights": [0.0] * 3 + [1.0] * 8}
    given = types.ModelInput.from_ints(tokens[:-1])
    return [types.Datum(model_input=given, loss_fn_inputs=inputs)] * 2


def train(adapter, numbers):
    """One step per batch; the loss per token of each."""
    losses = []
    for number in numbers:
        passed = adapter.forward_backward(batch(number), "cross_entropy")
        step = adapter.optim_step(ADAM)
        logprobs = passed.result().loss_fn_outputs[0]["logprobs"].data
        losses.append(-sum(logprobs[3:]) / 8)
        step.result()
    return losses


def save(adapter, name="final"):
    """The server's path of the weights, with the kind that SkyRL leaves out."""
    adapter.save_weights_for_sampler(name).result()
    return f"tinker://{adapter.model_id}/sampler_weights/{name}"


def test_equal_calls_train_equal_bits_and_a_saved_state_goes_on_with_them(server):
    client = connect(server)
    whole = create(client)
    losses = train(whole, [1, 2, 1, 2])
    assert losses[2] < losses[0]
    assert losses[3] < losses[1]
    first = create(client)
    train(first, [1, 2])
    state = first.save_state("half").result().path
    resumed = create(client, seed=9)
    resumed.load_state_with_optimizer(state).result()
    assert train(resumed, [1, 2]) == losses[2:]
    paths = [save(whole), save(resumed)]
    saved = server.state()["saved"]
    assert saved[paths[0]]["sha256"] == saved[paths[1]]["sha256"]
    assert saved[paths[0]]["history"] == saved[paths[1]]["history"]
    assert len(saved[paths[0]]["history"]) == 4


def test_answers_depend_on_their_seed_alone_and_adapters_change_them(server):
    client = connect(server)
    adapter = create(client)
    path = adapter.save_weights_for_sampler("w").result().path
    before = client.create_sampling_client(model_path=path)
    base = client.create_sampling_client(base_model="embedded")
    [plain] = base.sample(PROMPT, 1, GREEDY).result().sequences
    assert before.sample(PROMPT, 1, GREEDY).result().sequences[0].tokens == plain.tokens
    drawn = [types.SamplingParams(max_tokens=8, seed=seed, stop=[1]) for seed in range(6)]
    together = [one.result() for one in [base.sample(PROMPT, 1, params) for params in drawn]]
    alone = base.sample(PROMPT, 1, drawn[3]).result()
    assert alone.sequences[0].tokens == together[3].sequences[0].tokens
    assert len({tuple(answer.sequences[0].tokens) for answer in together}) > 1
    train(adapter, [1] * 6)
    path = adapter.save_weights_for_sampler("trained").result().path
    tuned = client.create_sampling_client(model_path=path)
    known = tuned.compute_logprobs(batch(1)[0].model_input).result()
    untuned = base.compute_logprobs(batch(1)[0].model_input).result()
    assert sum(known[-7:]) > sum(untuned[-7:])


def test_weights_come_home_as_a_peft_folder(server):
    adapter = create(connect(server))
    train(adapter, [1])
    save(adapter)
    rest = connect(server).create_rest_client()
    listed = rest.list_checkpoints(adapter.model_id).result().checkpoints
    assert [(one.checkpoint_id, one.checkpoint_type) for one in listed] == [("final", "sampler")]
    archive = rest.get_checkpoint_archive_url(adapter.model_id, "final").result()
    with urllib.request.urlopen(archive.url) as answer:
        content = io.BytesIO(answer.read())
    with tarfile.open(fileobj=content) as packed:
        names = sorted(packed.getnames())
    assert names == ["", "adapter_config.json", "adapter_model.safetensors"]


def test_full_slots_and_lost_adapters_are_refused(server):
    server.tell(slots=1)
    client = connect(server)
    adapter = create(client)
    with pytest.raises(ValueError, match=r"Maximum number of LoRA adapters \(2\) reached"):
        create(client)
    server.expire()
    with pytest.raises(ValueError, match="not loaded"):
        train(adapter, [1])
    other = create(client)
    assert server.state()["slots"] == {"in_use": [other.model_id], "most": 1}
    server.evict(other.model_id)
    with pytest.raises(tinker.NotFoundError, match="Model not found"):
        train(other, [1])


@pytest.mark.parametrize(
    ("told", "done", "applied"),
    [
        ({"remembers_requests": True}, True, 1),
        ({"remembers_requests": True}, False, 1),
        # The SDK sends a step again whose answer was lost; SkyRL applies it twice.
        ({}, True, 2),
        ({}, False, 1),
    ],
)
def test_a_step_whose_connection_drops(server, told, done, applied):
    adapter = create(connect(server))
    server.tell(drop=[{"path": "optim_step", "nth": 2, "done": done}], **told)
    train(adapter, [1, 2, 3])
    assert [step["number"] for step in server.state()["steps"]] == list(range(1, 3 + applied))


def test_a_gradient_that_no_step_has_applied_stays_in_its_slot(server):
    whole = create(connect(server))
    train(whole, [1])
    expected = save(whole)
    server.expire()
    killed = create(connect(server))
    killed.forward_backward(batch(2), "cross_entropy").result()
    server.expire()
    disturbed = create(connect(server))
    train(disturbed, [1])
    path = save(disturbed)
    server.expire()
    clean = create(connect(server))
    train(clean, [1])
    saved = server.state()["saved"]
    assert saved[path]["sha256"] != saved[expected]["sha256"]
    path = save(clean)
    assert server.state()["saved"][path]["sha256"] == saved[expected]["sha256"]


def test_a_restarted_server_knows_checkpoints_but_no_adapters(server, tmp_path):
    client = connect(server)
    adapter = create(client)
    train(adapter, [1, 2])
    state = adapter.save_state("half").result().path
    expected = save(adapter)
    server.restart()
    with pytest.raises(ValueError, match="not loaded"):
        train(adapter, [3])
    again = create(client)
    again.load_state_with_optimizer(state).result()
    path = save(again)
    saved = server.state()["saved"]
    assert saved[path]["sha256"] == saved[expected]["sha256"]
    with serving_tinker(tmp_path) as other:
        assert other.state()["saved"] == saved
        assert other.state()["slots"]["in_use"] == []


def test_what_is_told_is_answered_and_hangs_leave_the_rest_alone(server):
    server.tell(answer={"create_session": {"status": 410, "body": {"detail": "too old"}}})
    with pytest.raises(tinker.APIStatusError, match="too old"):
        create(connect(server))
    server.tell(answer={"optim_step": "hang"})
    adapter = create(connect(server))
    threading.Thread(target=adapter.optim_step, args=(ADAM,), daemon=True).start()
    while not server.log("optim_step"):
        time.sleep(0.01)
    assert create(connect(server)).model_id != adapter.model_id
