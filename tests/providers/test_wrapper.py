"""A wrapper hides nothing: it forwards every public method and property of `Provider`."""

import inspect
from pathlib import Path

import pytest

from providers.answer_server import AnswerServer
from providers.base import Provider
from providers.batched import BatchedProvider
from providers.budget import Budget
from providers.budgeted import BudgetedProvider
from providers.errors import Unsupported
from providers.pricing import Prices
from providers.replica import Replica
from providers.replicas import Replicas
from providers.scripted import ScriptedProvider
from providers.split import SplitProvider
from providers.types import Capabilities, Completion, Message, ModelRef, Request, Sampling
from providers.wrapper import ProviderWrapper

PUBLIC = sorted(name for name in vars(Provider) if not name.startswith("_"))
BASE = ModelRef("echo", "echo:")


class Recorder(Provider):
    """Answers every operation with a value of its own and records what was called, with what."""

    base = BASE
    capabilities = Capabilities(score=True, batches=True)

    def __init__(self):
        self.calls = []

    async def complete(self, request):
        return self.record("complete", request)

    def record(self, name, *arguments):
        self.calls.append((name, arguments))
        return f"from {name}"


def recording(name):
    """An override of the operation `name` that records its call."""
    original = getattr(Provider, name)

    def plain(self, *arguments):
        return self.record(name, *arguments)

    async def coroutine(self, *arguments):
        return self.record(name, *arguments)

    return coroutine if inspect.iscoroutinefunction(original) else plain


for operation in PUBLIC:
    if inspect.isfunction(vars(Provider)[operation]) and operation != "with_deadline":
        setattr(Recorder, operation, recording(operation))


class Echo(Provider):
    """The shortest provider, as in the docstring of `Provider`."""

    base = BASE
    capabilities = Capabilities(sampling_seed=True)

    async def complete(self, request):
        text = request.messages[-1].content
        return Completion(text, "stop", len(text), len(text), latency_ms=0.0)


@pytest.mark.parametrize("name", PUBLIC)
async def test_a_wrapper_forwards_every_operation_and_property(name):
    inner = Recorder()
    wrapper = ProviderWrapper(inner)
    if isinstance(vars(Provider)[name], property):
        assert getattr(wrapper, name) is getattr(inner, name)
        return
    assert name in vars(ProviderWrapper), f"ProviderWrapper does not forward {name}"
    if name == "with_deadline":
        return
    arguments = [object() for _ in list(inspect.signature(getattr(wrapper, name)).parameters)]
    result = getattr(wrapper, name)(*arguments)
    if inspect.isawaitable(result):
        result = await result
    assert inner.calls == [(name, tuple(arguments))]
    if inspect.signature(getattr(Provider, name)).return_annotation != "None":
        assert result == f"from {name}"


def wrappers(inner):
    """Every wrapper there is, around `inner`."""
    answers = AnswerServer("echo:")
    yield BudgetedProvider(inner, Prices(), Budget())
    yield BatchedProvider(inner, batches=None)
    replicas = Replicas([Replica(answers, Server(), None, Path())], patience_s=1.0)
    yield SplitProvider(inner, replicas, workdir=Path())


class Server(Echo):
    def adapter_server(self):
        return None


async def test_a_wrapper_with_a_deadline_wraps_the_connection_with_the_deadline():
    class Patient(Recorder):
        deadline = None

        def with_deadline(self, give_up_after_s):
            quick = type(self)()
            quick.deadline = give_up_after_s
            return quick

    inner = Patient()
    for wrapper in wrappers(inner):
        quick = wrapper.with_deadline(7.0)
        assert type(quick) is type(wrapper)
        assert quick._provider.deadline == 7.0
        assert wrapper._provider is inner
        if isinstance(wrapper, BudgetedProvider):
            assert quick.budget is wrapper.budget


async def test_an_operation_that_is_not_announced_is_refused_with_the_remedy():
    provider, model = Echo(), ModelRef("tuned", "echo:", artifact="a")
    request = Request(BASE, (Message("user", "hello"),), Sampling(), "k")
    assert (await provider.complete(request)).text == "hello"
    for refused in (
        provider.score(BASE, (), "x"),
        provider.divergences(BASE, [BASE], (), "x"),
        provider.submit(None),
        provider.find(None),
        provider.poll(None),
        provider.cancel(None),
        provider.load_adapters([model]),
        provider.delete_deployment(None),
    ):
        with pytest.raises(Unsupported, match=r"^echo: .*; "):
            await refused
    assert await provider.list_deployments([model]) == ()
    for call in (lambda: provider.batches(None), provider.adapter_server):
        with pytest.raises(Unsupported, match=r"^echo: .*; "):
            call()
    await provider.load_adapters([BASE])
    assert provider.validate_hyperparameters(None) == ()
    assert provider.with_deadline(1.0) is provider
    await provider.close()


def test_the_providers_of_this_project_announce_what_they_override():
    scripted = ScriptedProvider(str)
    assert scripted.capabilities.finetune
    assert "submit" in vars(ScriptedProvider)
    assert not scripted.capabilities.score
    assert "score" not in vars(ScriptedProvider)
