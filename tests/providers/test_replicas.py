"""Several servers of one model: who answers, and what happens when one of them fails."""

import asyncio
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from providers import registry
from providers.answer_server import AnswerServer, check_answer_servers
from providers.errors import InvalidSettings, RequestFailed, TimedOut, Unreachable, Unsupported
from providers.replica import Replica
from providers.replicas import Replicas
from providers.scripted import ScriptedProvider
from providers.split import SplitProvider, connect_split
from providers.types import Hyperparameters, Message, ModelRef, Request, Sampling
from tests.providers.adapter_server import AdapterServer
from tests.providers.test_adapters import administration, make_folder, request, tuned


@pytest.fixture
def folders(tmp_path):
    for index in range(3):
        make_folder(tmp_path / f"a{index}", index)
    return tmp_path


@pytest.fixture
def servers():
    with ExitStack() as stack:
        yield [stack.enter_context(AdapterServer(answer_s=0.005)) for _ in range(2)]


@asynccontextmanager
async def pool(servers, workdir, *, patience_s=30.0, check_every_s=20.0):
    """A trainer that only makes folders, and several servers."""
    replicas = [
        Replica(
            AnswerServer(server.address),
            registry.connect(server.address, {}, workdir).with_deadline(0.5),
            administration(server),
            workdir,
        )
        for server in servers
    ]
    trainer = ScriptedProvider(lambda request: "from here", address="scripted:base")
    provider = SplitProvider(
        trainer, Replicas(replicas, patience_s, check_every_s=check_every_s), workdir
    )
    try:
        yield provider
    finally:
        await provider.close()


def ask(model, text: str) -> Request:
    return Request(model, (Message("user", text),), Sampling(max_tokens=8), "k")


async def ask_many(provider, model, count: int, at_once: int = 16) -> list[str]:
    """The answers to that many different questions."""
    slots = asyncio.Semaphore(at_once)

    async def one(number: int) -> str:
        async with slots:
            return (await provider.complete(ask(model, f"question {number}"))).text

    return await asyncio.gather(*(one(number) for number in range(count)))


async def test_calls_are_shared_evenly_and_every_server_has_every_adapter(folders, servers):
    async with pool(servers, folders) as provider:
        await provider.load_adapters([tuned("a0"), tuned("a1")])
        said = await ask_many(provider, tuned("a1"), 300)
    assert all(text.startswith("hello from a1-") for text in said)
    first, second = (len(server.chats) for server in servers)
    assert first + second == 300
    assert abs(first - second) <= 30
    for server in servers:
        assert [path for _, path in server.loads] == [str(folders / "a0"), str(folders / "a1")]
        assert server.faults == []


@pytest.mark.parametrize(
    ("limits", "asked", "most"), [({}, 60, 60), ({"start_concurrent": 5}, 8, 5)]
)
async def test_a_server_gets_all_calls_at_once_from_the_start(limits, asked, most, folders):
    with AdapterServer(answer_s=1.0) as server:
        there = AnswerServer(server.address, {"limits": limits})
        provider = connect_split("embedded:", {}, [there], folders)
        try:
            base = ModelRef("embedded:", "embedded:")
            await asyncio.gather(*(provider.complete(ask(base, f"{n}?")) for n in range(asked)))
        finally:
            await provider.close()
    assert server.most_at_once == most


async def test_calls_that_begin_alike_go_to_one_server_while_both_are_free(folders, servers):
    async with pool(servers, folders) as provider:
        for number in range(12):
            for _ in range(3):
                await provider.complete(ask(provider.base, f"question {number}"))
    first, second = (len(server.chats) for server in servers)
    assert first + second == 36
    assert first % 3 == second % 3 == 0
    assert first
    assert second


async def test_the_calls_of_a_server_that_dies_are_asked_of_the_other(folders, servers):
    async with pool(servers, folders) as provider:
        await provider.load_adapters([tuned("a0")])
        asking = asyncio.create_task(ask_many(provider, tuned("a0"), 200))
        while len(servers[0].chats) < 20:  # noqa: ASYNC110 (the server counts in its own thread)
            await asyncio.sleep(0.001)
        servers[0].kill()
        said = await asking
        assert len(said) == 200
        assert all(text.startswith("hello from a0-") for text in said)

        # It comes back as a new process, which has no adapters and gets them before any call.
        with servers[0]:
            before, asked = len(servers[0].chats), 0
            while len(servers[0].chats) == before:
                asked += 20
                await ask_many(provider, tuned("a0"), 20)
                assert asked < 10_000
    loads = [name for name, _ in servers[0].loads]
    assert len(set(loads)) == len(loads) == 2
    assert servers[0].chats[-1] == loads[1]
    assert [server.faults for server in servers] == [[], []]


async def test_a_server_that_does_not_answer_any_more_is_left(folders, servers):
    async with pool(servers, folders, check_every_s=0.1) as provider:
        await provider.load_adapters([tuned("a0")])
        await ask_many(provider, tuned("a0"), 20)
        servers[0].frozen = True
        try:
            said = await ask_many(provider, tuned("a0"), 60)
        finally:
            servers[0].frozen = False
    assert len(said) == 60


async def test_adapters_that_a_server_has_lost_are_loaded_again_under_new_names(folders, servers):
    async with pool(servers, folders) as provider:
        await provider.load_adapters([tuned("a0"), tuned("a1")])
        asking = asyncio.create_task(ask_many(provider, tuned("a0"), 200))
        while len(servers[0].chats) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        with servers[0].lock:
            servers[0].loaded.clear()
        assert all(text.startswith("hello from a0-") for text in await asking)
        while len(servers[0].loaded) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    names = [name for name, _ in servers[0].loads]
    assert len(set(names)) == len(names) == 4
    assert [server.faults for server in servers] == [[], []]


async def test_an_adapter_that_is_missing_is_noticed_although_it_is_not_asked(folders, servers):
    for server in servers:
        server.answer_s = 0.3
    async with pool(servers, folders, check_every_s=0.05) as provider:
        await provider.load_adapters([tuned("a0"), tuned("a1")])
        asking = asyncio.create_task(ask_many(provider, tuned("a0"), 64))
        with servers[0].lock:
            gone = next(name for name in servers[0].loaded if name.startswith("a1-"))
            del servers[0].loaded[gone]
        while not any(name.startswith("a1-") for name in servers[0].loaded):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asking
    assert len({name for name, _ in servers[0].loads}) == 3


async def test_a_single_server_that_was_started_anew_gets_its_adapters(folders, servers):
    async with pool(servers[:1], folders) as provider:
        await provider.load_adapters([tuned("a0")])
        await provider.complete(request(tuned("a0")))
        servers[0].kill()
        with servers[0]:
            said = await provider.complete(request(tuned("a0")))
    assert said.text.startswith("hello from a0-")
    assert len({name for name, _ in servers[0].loads}) == 2


async def test_a_server_that_is_away_when_a_society_is_loaded_gets_it_later(folders, servers):
    servers[0].kill()
    async with pool(servers, folders) as provider:
        await provider.load_adapters([tuned("a0")])
        assert len(await ask_many(provider, tuned("a0"), 10)) == 10
        await provider.load_adapters([tuned("a1")])
        with servers[0]:
            while not servers[0].loaded:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert [name[:3] for name in servers[0].loaded] == ["a1-"]
    assert [name[:3] for name in servers[1].loaded] == ["a1-"]


async def test_with_no_server_left_each_is_named_with_its_reason(folders, servers):
    async with pool(servers, folders, patience_s=0.5) as provider:
        await provider.load_adapters([tuned("a0")])
        for server in servers:
            server.kill()
        with pytest.raises(
            Unreachable, match=r"the servers of \[serving\] have not answered"
        ) as error:
            await provider.complete(request(tuned("a0")))
    for server in servers:
        assert f"{server.address}: " in str(error.value)
    assert "what is stored is kept" in str(error.value)


async def test_a_server_that_refuses_adapters_is_named_and_ends_the_run(folders, servers):
    servers[1].runtime = False
    async with pool(servers, folders) as provider:
        with pytest.raises(Unsupported, match="does not load adapters") as error:
            await provider.load_adapters([tuned("a0")])
    assert str(error.value).startswith(servers[1].address)


def scripted_pool(*scripts) -> Replicas:
    """Servers that answer or fail as the scripts do."""

    class NoAdapters:
        async def close(self):
            return None

        async def list_loaded(self):
            return []

    return Replicas(
        [
            Replica(AnswerServer(f"echo:{n}"), ScriptedProvider(script), NoAdapters(), Path())
            for n, script in enumerate(scripts)
        ],
        patience_s=5.0,
    )


async def complete(replicas: Replicas, text: str) -> str:
    asked = ask(ScriptedProvider(lambda request: "").base, text)

    async def call(provider, model):
        return await provider.complete(asked)

    return (await replicas.ask(asked.model, asked.messages, call)).text


async def test_what_one_server_fails_at_is_asked_of_one_more_and_no_other():
    asked = []

    def failing(number):
        def script(request):
            asked.append(number)
            raise RequestFailed(f"failed at {number}")

        return script

    replicas = scripted_pool(failing(0), failing(1), failing(2))
    with pytest.raises(RequestFailed, match="failed at"):
        await complete(replicas, "q")
    assert len(set(asked)) == len(asked) == 2
    answering = scripted_pool(failing(0), lambda request: "well")
    assert {await complete(answering, f"q{n}") for n in range(8)} == {"well"}
    await asyncio.gather(replicas.close(), answering.close())


async def test_a_call_that_brings_every_server_down_ends():
    def script(request):
        raise TimedOut("the engine has died")

    replicas = scripted_pool(script, script)
    replicas._patience_s = 1.0
    with pytest.raises(Unreachable, match="died"):
        await complete(replicas, "q")
    await replicas.close()


def test_servers_are_opened_from_the_addresses_of_an_experiment(folders, servers):
    script = folders / "script.jsonl"
    script.write_text("")
    named = [AnswerServer(server.address, {"give_up_after_s": 2.0}) for server in servers]

    async def debate() -> list[str]:
        provider = connect_split(f"scripted:{script}", {}, named, folders)
        await provider.load_adapters([])
        said = await ask_many(provider, provider.base, 40)
        await provider.close()
        return said

    assert len(asyncio.run(debate())) == 40
    assert all(server.chats for server in servers)


ONE = "openai+http://127.0.0.1:8000/v1:m"


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ([], "names no server"),
        ([ONE, ONE], "2 times"),
        ([ONE, "openai+http://127.0.0.1:8001/v1:other"], "different models, m and other"),
    ],
)
def test_servers_that_cannot_be_one_model_are_refused(addresses, reason):
    with pytest.raises(InvalidSettings, match=reason):
        check_answer_servers([AnswerServer(a) for a in addresses], Hyperparameters(), {})
