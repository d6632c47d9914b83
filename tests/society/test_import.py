"""Transcripts from elsewhere become a run, with the votes, verdicts and datasets of a debate."""

import asyncio
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals import tasks
from evals.tasks.arithmetic import create
from society import importing
from society.config import load as experiments
from society.config.load import ConfigError
from society.config.schema import Config
from society.importing import ImportSource, TranscriptError, formats, overview
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store

ARITHMETIC = ImportSource(None, "arithmetic", None)
TASK = create({})


def rows(folder, sql):
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


def bring(tmp_path, content, source=ARITHMETIC, name="run", **options):
    """Import `content` (text, lines or a document); returns the run's folder."""
    path = tmp_path / "transcripts"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, list):
        path.write_text("".join(json.dumps(line) + "\n" for line in content), encoding="utf-8")
    else:
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    folder = folders.locate_run(tmp_path / "runs", name)
    return importing.import_file(path, folder, source, **options).folder


def refused(tmp_path, content, source=ARITHMETIC, **options):
    """What an import that is refused says; nothing may be left behind."""
    with pytest.raises(TranscriptError) as error:
        bring(tmp_path, content, source, **options)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
    return str(error.value)


def line(agent, value, *, question="2+2?", number=1, **more):
    return {
        "question": question,
        "agent": agent,
        "round": number,
        "response": f"so \\boxed{{{value}}}",
        **more,
    }


def conversation(question, *values):
    """One agent's context in the shape of Du et al.'s files."""
    messages = [{"role": "user", "content": f"Solve {question}"}]
    for number, value in enumerate(values, start=1):
        if number > 1:
            messages.append({"role": "user", "content": f"Others, before round {number}: …"})
        messages.append({"role": "assistant", "content": f"I say \\boxed{{{value}}}"})
    return messages


# Two agents, three rounds. The label is the vote of round 3; agent 1 decides no tie, for a tie in
# training has no label.
DEBATES = {
    "kept by both": [[conversation("a", 5, 5, 5), conversation("a", 5, 6, 5)], "5"],
    "corrected by 2": [[conversation("b", 7, 7, 7), conversation("b", 8, 8, 7)], "The sum: #### 7"],
    "both go wrong": [[conversation("c", 3, 3, 4), conversation("c", 4, 3, 4)], 3],
    "a tie": [[conversation("d", 1, 1, 1), conversation("d", 2, 2, 2)], 1.0],
    "nobody says": [[conversation("e", 9, "", ""), conversation("e", 9, "", "")], None],
}


def test_a_file_of_the_released_codes_shape_becomes_votes_verdicts_and_datasets(tmp_path):
    folder = bring(tmp_path, DEBATES)
    assert rows(
        folder,
        "SELECT question, round, v.answer, votes, voters, tie, correct FROM votes v "
        "JOIN questions USING (question_id) ORDER BY position, round",
    ) == [
        ("kept by both", 1, "5", 2, 2, False, True),
        ("kept by both", 2, None, 1, 2, True, False),
        ("kept by both", 3, "5", 2, 2, False, True),
        ("corrected by 2", 1, None, 1, 2, True, False),
        ("corrected by 2", 2, None, 1, 2, True, False),
        ("corrected by 2", 3, "7", 2, 2, False, True),
        ("both go wrong", 1, None, 1, 2, True, False),
        ("both go wrong", 2, "3", 2, 2, False, True),
        ("both go wrong", 3, "4", 2, 2, False, False),
        ("a tie", 1, None, 1, 2, True, False),
        ("a tie", 2, None, 1, 2, True, False),
        ("a tie", 3, None, 1, 2, True, False),
        ("nobody says", 1, "9", 2, 2, False, None),
        ("nobody says", 2, None, 0, 0, False, None),
        ("nobody says", 3, None, 0, 0, False, None),
    ]
    assert rows(
        folder,
        "SELECT question, agent, change FROM critic_examples JOIN questions USING (question_id) "
        "ORDER BY position, agent",
    ) == [
        ("kept by both", 1, "kept"),
        ("kept by both", 2, "kept"),
        ("corrected by 2", 1, "kept"),
        ("corrected by 2", 2, "corrected"),
        ("both go wrong", 1, "corrected"),
        ("both go wrong", 2, "kept"),
    ]
    assert rows(
        folder, "SELECT agent, role, examples, corrected, kept FROM datasets ORDER BY ALL"
    ) == [
        (1, "critic", 3, 1, 2),
        (1, "generator", 2, None, None),
        (2, "critic", 3, 1, 2),
        (2, "generator", 2, None, None),
    ]


def test_a_conversation_is_kept_as_it_was_sent_round_by_round(tmp_path):
    folder = bring(tmp_path, DEBATES)
    sent = rows(
        folder,
        "SELECT round, messages, response FROM turns JOIN questions USING (question_id) "
        "WHERE question = 'corrected by 2' AND agent = 2 ORDER BY round",
    )
    whole = conversation("b", 8, 8, 7)
    assert [(number, json.loads(messages)) for number, messages, _ in sent] == [
        (1, whole[:1]),
        (2, whole[:3]),
        (3, whole[:5]),
    ]
    assert [response for *_, response in sent] == [whole[n]["content"] for n in (1, 3, 5)]


def test_an_unanswered_prompt_at_the_end_and_a_system_message_are_no_rounds(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    context = [system, *conversation("x", 1, 1), {"role": "user", "content": "And now?"}]
    folder = bring(tmp_path, {"x": [[context, context], 1, "Level 2", "Algebra"]})
    [(agents, last, first)] = rows(
        folder, "SELECT max(agent), max(round), min_by(messages, round) FROM turns"
    )
    assert (agents, last) == (2, 2)
    assert json.loads(first) == context[:2]


def test_an_answer_that_never_came_is_a_failed_turn_without_a_vote(tmp_path):
    silent = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]
    folder = bring(tmp_path, {"x": [[conversation("x", 1), silent], 1]})
    assert rows(folder, "SELECT finish_reason, answer, error FROM turns ORDER BY agent") == [
        ("stop", "1", None),
        ("error", None, "the transcript has no response"),
    ]
    assert rows(folder, "SELECT votes, voters FROM votes") == [(1, 1)]


def export(folder, *, messages: bool, where="true"):
    """A run's turns as lines, as a user would write them."""
    kept = ", messages" if messages else ""
    found = rows(
        folder,
        "SELECT question, question_id, gold, t.split, t.iteration, decoding, agent, round, kind, "
        f"response, finish_reason, model_id{kept} FROM turns t JOIN questions USING (question_id) "
        f"WHERE {where} ORDER BY t.created_at DESC",
    )
    names = "question question_id gold split iteration decoding agent round kind response"
    names = [*names.split(), "finish_reason", "model", "messages"]
    lines = [dict(zip(names, row, strict=False)) for row in found]
    return [x | ({"messages": json.loads(x["messages"])} if messages else {}) for x in lines]


@pytest.fixture
def held(tmp_path, experiment):
    """A run of two iterations that was held here."""
    folder = folders.locate_run(tmp_path / "held", "held")
    config = experiments.load_config(str(experiment))
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
    return folder


TABLES = {
    "turns": "* EXCLUDE (created_at, latency_ms, prompt_tokens, completion_tokens)",
    "votes": "*",
    "verdicts": "*",
    "questions": "* EXCLUDE meta",
    "dataset_examples": "*",
    "datasets": "* EXCLUDE created_at",
}


def contents(folder, without=()):
    return {
        table: rows(folder, f"SELECT {columns} FROM {table} ORDER BY ALL")
        for table, columns in TABLES.items()
        if table not in without
    }


@pytest.mark.parametrize("messages", [True, False])
def test_a_run_that_is_written_out_and_imported_is_the_same_run(
    tmp_path, experiment, held, messages
):
    # Without messages, every prompt is rebuilt byte for byte: the turns' hashes cover them.
    source = ImportSource(str(experiment), None, None)
    folder = bring(tmp_path, export(held, messages=messages), source)
    assert contents(folder) == contents(held)


def test_a_run_goes_on_where_the_transcripts_of_its_experiment_end(tmp_path, experiment, held):
    lines = export(held, messages=False, where="t.iteration = 0 OR t.split = 'train'")
    lines = [x for x in lines if x["iteration"] < 2]
    for each in lines:
        del each["question_id"], each["gold"], each["model"]
    config = experiments.load_config(str(experiment))
    folder = bring(tmp_path, lines, ImportSource(str(experiment), None, None))
    before = rows(folder, "SELECT * FROM turns ORDER BY ALL")
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
    assert [r for r in rows(folder, "SELECT * FROM turns ORDER BY ALL") if r in before] == before
    ours, theirs = contents(folder, ["turns"]), contents(held, ["turns"])
    assert ours == theirs


def test_a_run_imported_without_an_experiment_can_be_read_like_any_other(tmp_path):
    folder = bring(tmp_path, DEBATES)
    config = Config.from_json(rows(folder, "SELECT config FROM runs")[0][0])
    assert (config.society.agents, config.society.rounds) == (2, 3)
    assert (config.model, config.iterations) == (f"replay:{folder.path}", 1)
    assert (config.train.questions, config.society.others) == (5, "quoted")


def test_questions_without_an_id_are_named_by_their_text(tmp_path):
    one = bring(tmp_path, [line(1, 4), line(2, 4)], name="one")
    two = bring(tmp_path, [line(1, 5), line(2, 4), line(1, 1, question="1?")][:2], name="two")
    [(question_id,)] = rows(one, "SELECT question_id FROM questions")
    assert question_id.startswith("arithmetic:")
    assert len(question_id) == len("arithmetic:") + 12
    assert rows(two, "SELECT question_id FROM questions") == [(question_id,)]


def test_a_truncated_response_has_no_answer_and_no_vote(tmp_path):
    folder = bring(
        tmp_path,
        [line(1, 4, finish_reason="length", answer="4"), line(2, 5), line(3, 5, answer=7)],
    )
    assert rows(folder, "SELECT answer FROM turns ORDER BY agent") == [(None,), ("5",), ("7",)]
    assert rows(folder, "SELECT voters, tie FROM votes") == [(2, True)]


def test_what_a_line_does_not_say_comes_from_the_command(tmp_path):
    lines = [line(1, 4), line(1, 5, question="3+3?", split="train", iteration=4)]
    folder = bring(tmp_path, lines, split="eval", iteration=2)
    assert rows(folder, "SELECT split, iteration FROM turns ORDER BY ALL") == [
        ("eval", 2),
        ("train", 4),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the file is empty"),
        ("\n  \n", "the file is empty"),
        ("{", "neither of the two formats"),
        ("[1, 2]", "neither of the two formats"),
        ('{"q": {"contexts": []}}', "neither of the two formats"),
        ("question,agent\n1,2\n", "neither of the two formats"),
        (b'{"question": "caf\xe9"}\n', "line 1: byte 0xe9 is not UTF-8"),
        ({"q": [[]]}, "question 1 ('q'): expected"),
        ({"q": []}, "question 1 ('q'): expected"),
        ({"q": [[conversation("q", 1)], True]}, "question 1 ('q'): expected"),
        ({"q": [[[{"role": "model", "content": "x"}]], 1]}, "question 1 ('q'): expected"),
        ({" ": [[conversation("q", 1)], 1]}, "its text is empty"),
        (
            {"q": [[conversation("q", 1)[1:]], 1]},
            "question 1 ('q'), agent 1: message 1 is from the assistant",
        ),
        ('{"q": [[[]], 1], "q": [[[]], 1]}', "the question 'q' appears twice"),
        ([line(0, 4)], "line 1: agent: agents and rounds count from 1, got 0"),
        ([line(1, 4, number=0)], "line 1: round: agents and rounds count from 1, got 0"),
        ([line("1", 4)], "line 1: agent: Input should be a valid integer, got '1'"),
        ([line(True, 4)], "line 1: agent: Input should be a valid integer"),
        ([line(1, 4), {"question": "2+2?", "agent": 2}], "line 2: round is missing; add it"),
        ([line(1, 4, respnse="x")], "line 1: respnse is not a field of a turn"),
        ([line(1, 4, question="  ")], "line 1: question is empty"),
        ([line(1, 4, question_id=" ")], "line 1: question_id is empty"),
        ([line(1, 4, latency_ms=float("nan"))], "line 1: latency_ms"),
        ([line(1, 4, messages=[])], "line 1: messages"),
        ([line(1, 4, iteration=0)], "line 1: a training debate needs an iteration of 1 or more"),
        ([line(1, 4, kind="summary")], "line 1: a summary begins round 2 or later"),
        ([line(1, 4), line(1, 5)], "line 2: answer of agent 1 in round 1 is in line 1 already"),
        ([line(1, 4, gold="4"), line(2, 4, gold="5")], "line 2: gold '5' for a question whose"),
        ([line(1, 4), line(2, 4, split="eval")], "line 2: this question is in split eval here"),
        (
            [line(1, 4, question_id="x"), line(1, 4, question_id="y", split="eval")],
            "line 2: this question is in split eval here",
        ),
        (
            [line(1, 4, question_id="x"), line(2, 4, question_id="x", question="3?")],
            "line 2: question_id 'x' has another text in line 1",
        ),
        (
            [line(1, 4, question_id="x"), line(1, 4, question_id="y"), line(2, 4)],
            "line 3: has no question_id, and other lines give its question 2 different ids",
        ),
        ([line(1, 4, gold="long " * 100)], "line 1: gold 'long long"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_nothing_is_written(tmp_path, content, says):
    assert says in refused(tmp_path, content)


def test_broken_lines_are_all_named_and_the_good_ones_are_not(tmp_path):
    good = [json.dumps(line(agent, 4)) for agent in (1, 2, 3)]
    said = refused(tmp_path, "\n".join([good[0], "{broken", good[1], "7", "[" * 9999, good[2]]))
    assert "3 problem(s)" in said
    assert "line 2: not one JSON object" in said
    assert "line 4: not a JSON object" in said
    assert "line 5: not one JSON object" in said


def test_one_cause_in_many_lines_is_said_once(tmp_path):
    lines = [line(1 + n % 3, 4) for n in range(60)]
    for number, each in enumerate(lines):
        del each["agent"]
        if number % 2:
            each["round"] = 0
    said = refused(tmp_path, lines)
    assert said.count("agent is missing; add it") == 1
    assert "and 59 more like it: line 2, line 3" in said
    assert said.count("agents and rounds count from 1, got 0") == 1
    assert "and 29 more like it: line 4, line 6" in said
    assert "90 problem(s)" in said
    assert len(said.splitlines()) < 10


def test_a_broken_first_line_is_named_too(tmp_path):
    assert "line 1: not one" in refused(tmp_path, '{"question": \n' + json.dumps(line(1, 4)))


def test_an_incomplete_debate_is_named_and_can_be_left_out(tmp_path):
    whole = [line(a, 4, question=q, number=r) for q in "xyz" for a in (1, 2) for r in (1, 2)]
    part = [w for w in whole if (w["question"], w["agent"], w["round"]) != ("y", 2, 2)]
    more = [*part, line(3, 4, question="z")]
    said = refused(tmp_path, more)
    assert "agent 2 has no answer in round 2; complete it, or use --skip-incomplete" in said
    assert "agent 3 has no answer" not in said
    folder = bring(tmp_path, part, skip_incomplete=True)
    assert rows(folder, "SELECT question FROM questions ORDER BY position") == [("x",), ("z",)]
    assert rows(folder, "SELECT count(*) FROM turns") == [(8,)]
    (tmp_path / "none").mkdir()
    said = refused(tmp_path / "none", [line(2, 4)], skip_incomplete=True)
    assert "no debate is complete" in said


def test_a_context_with_fewer_answers_makes_an_incomplete_debate(tmp_path):
    broken = dict(DEBATES, odd=[[conversation("o", 1, 1, 1), conversation("o", 1)], 1])
    assert "agent 2 has no answer in round 2 and 1 more answers" in refused(tmp_path, broken)
    folder = bring(tmp_path, broken, skip_incomplete=True)
    assert rows(folder, "SELECT count(*) FROM questions") == [(len(DEBATES),)]


def test_a_summarized_debate_without_messages_needs_its_summaries(tmp_path):
    lines = [line(a, 4, number=r) for a in (1, 2) for r in (1, 2)]
    summary = line(1, 4, number=2, kind="summary")
    said = refused(tmp_path, [*lines, summary])
    assert "no messages, and no summary for agent 2 in round 2" in said


def test_an_experiment_of_another_size_is_refused_with_what_to_set(tmp_path, experiment):
    with pytest.raises(ConfigError, match=r"--set society.agents=2 --set society.rounds=1"):
        bring(tmp_path, [line(1, 4), line(2, 4)], ImportSource(str(experiment), None, None))


def test_an_evaluation_question_of_the_experiment_cannot_be_imported_for_training(
    tmp_path, experiment
):
    text = TASK.questions("eval", 0, 1)[0].text
    said = refused(tmp_path, [line(1, 4, question=text)], ImportSource(str(experiment), None, None))
    assert "import it with --split eval" in said


def test_a_question_of_the_experiment_keeps_the_id_it_has_there(tmp_path, experiment):
    question = TASK.questions("train", 2, 1)[0]
    lines = [
        line(agent, 4, question=question.text, number=number, question_id="my own")
        for agent in (1, 2, 3)
        for number in (1, 2)
    ]
    source = ImportSource(str(experiment), None, None, ("society.others=quoted",))
    folder = bring(tmp_path, lines, source)
    assert rows(folder, "SELECT question_id, gold, position FROM questions") == [
        (question.question_id, question.gold, 2)
    ]


def test_a_gold_answer_against_that_of_the_experiment_is_named(tmp_path, experiment):
    question = TASK.questions("train", 0, 1)[0]
    lines = [line(1, 4, question=question.text, gold=int(question.gold) + 1)]
    said = refused(tmp_path, lines, ImportSource(str(experiment), None, None))
    assert f"whose gold is {question.gold!r} in the experiment's task" in said


@pytest.mark.parametrize("said", [(None, None, None), (None, "arithmetic", "number")])
def test_exactly_one_thing_says_how_answers_are_read(said):
    with pytest.raises(
        ConfigError, match=r"one of them, which says .* number, math, choice, text$"
    ):
        ImportSource(*said)


def test_a_run_that_is_there_is_not_touched(tmp_path):
    folder = bring(tmp_path, DEBATES)
    before = folder.database.read_bytes()
    with pytest.raises(ConfigError, match="choose another --name"):
        bring(tmp_path, DEBATES)
    assert folder.database.read_bytes() == before


def test_text_that_no_file_can_hold_is_replaced(tmp_path):
    odd = json.dumps(line(1, 4)).replace("so ", "so \\ud800 \\u0000")
    folder = bring(tmp_path, "\ufeff" + odd + "\r\n")
    assert rows(folder, "SELECT response FROM turns") == [("so \ufffd \x00\\boxed{4}",)]


def test_a_question_has_the_id_that_a_dataset_task_gives_it(tmp_path):
    text = "  How many legs have 3 cats?\n"
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"question": text, "answer": "#### 12"}) + "\n")
    [asked] = tasks.load_task("gsm8k", {"train_path": str(file)}).questions("train", 0, 1)
    source = ImportSource(None, "gsm8k", None)
    folder = bring(tmp_path, [line(1, 12, question=text, gold="3*4\n#### 12")], source)
    assert rows(folder, "SELECT question_id, question, gold FROM questions") == [
        (asked.question_id, asked.text, "12")
    ]


@pytest.mark.parametrize(
    ("kind", "gold", "response", "settings"),
    [
        ("number", "She has 4 left.\n#### 1,400", "So \\boxed{1400}", ()),
        ("math", "Thus \\boxed{\\frac{1}{2}}.", "The answer is $0.5$", ()),
        ("choice", "E", "The answer is (E)", ("task.choice_count=5",)),
        ("text", "Paris", "\\boxed{paris}", ()),
    ],
)
def test_a_kind_of_answer_is_enough(tmp_path, kind, gold, response, settings):
    lines = [line(1, 0, gold=gold) | {"response": response}, line(2, 99)]
    lines += [x | {"question": "1+1?", "split": "eval", "question_id": "one"} for x in lines]
    folder = bring(tmp_path, lines, ImportSource(None, None, kind, settings))
    found = rows(
        folder,
        "SELECT split, correct FROM turns JOIN verdicts USING (turn_id) WHERE agent = 1 "
        "ORDER BY split",
    )
    assert found == [("eval", True), ("train", True)]
    # The run's own experiment asks exactly these questions.
    config = experiments.load_config(str(folder.path / "config.toml"))
    task = tasks.load_task(config.task.name, config.task.options)
    asked = [*task.questions("train", 0, 1), *task.questions("eval", 0, 1)]
    stored = rows(folder, "SELECT question_id, question, gold FROM questions ORDER BY split DESC")
    assert [(q.question_id, q.text, q.gold) for q in asked] == stored


WORDS = st.sampled_from(["question", "agent", "round", "response", "role", "content", "user"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(WORDS | st.text(), inner),
    max_leaves=12,
)
LINES = st.dictionaries(st.sampled_from([*line(1, 1), "gold", "messages", "meta"]), VALUES)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text() | VALUES.map(json.dumps) | st.lists(LINES.map(json.dumps)).map("\n".join))
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path, text):
    path = tmp_path / "anything"
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        found = formats.read_transcripts(path, "train", None)
    except TranscriptError:
        return
    assert all(each.agent >= 1 and each.round >= 1 for each in found)


def test_numbers_of_agents_may_have_gaps(tmp_path):
    told = [
        line(agent, value, question=question, number=number)
        for question in ("2+2?", "3+1?")
        for number in (1, 2)
        for agent, value in ((7, 4), (1_000_000_000, 4), (30, 5))
    ]
    folder = bring(tmp_path, told)
    assert rows(folder, "SELECT DISTINCT agent FROM turns ORDER BY agent") == [(1,), (2,), (3,)]
    [(answer,)] = rows(folder, "SELECT DISTINCT answer FROM turns WHERE agent = 2")
    assert answer == "5"
    imported = importing.import_file(
        tmp_path / "transcripts", folders.locate_run(tmp_path / "runs", "again"), ARITHMETIC
    )
    shown = io.StringIO()
    overview.show_import(imported, shown)
    assert "agents 7, 30, 1000000000 of the file are 1 to 3 in the run" in shown.getvalue()


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"agent": 1_000_000_000}, "agent 1000000000 speaks, others have 2 agents"),
        ({"agent": 2_147_483_647, "number": 2_147_483_647}, "agent 2147483647 speaks, others"),
        ({"agent": 1, "number": 1_000_000_000}, "1 agents and 1000000000 rounds"),
    ],
)
def test_one_line_with_huge_numbers_is_left_out_by_name(tmp_path, odd, told):
    agent, number = odd["agent"], odd.get("number", 1)
    content = [line(a, 4, question=q) for q in ("2+2?", "3+1?") for a in (1, 2)]
    content.append(line(agent, 4, question="2+2?", number=number))
    message = refused(tmp_path, content)
    if "rounds" not in told:
        assert told in message
    assert "use --skip-incomplete" in message
    folder = bring(tmp_path, content, skip_incomplete=True)
    assert rows(folder, "SELECT DISTINCT question FROM questions") == [("3+1?",)]


@pytest.mark.parametrize(("agent", "number"), [(1_000_000_000, 1_000_000_000), (1, 2_147_483_647)])
def test_huge_numbers_alone_are_no_debate(tmp_path, agent, number):
    message = refused(tmp_path, [line(agent, 4, number=number)])
    assert "agent 1 has no answer in round 1" in message


def test_a_hole_is_no_way_of_counting(tmp_path):
    whole = [line(agent, 4, question="2+2?") for agent in (1, 2, 3)]
    holed = [line(agent, 4, question=q) for q in ("3+1?", "1+3?") for agent in (1, 3)]
    assert "agent 2 has no answer in round 1" in refused(tmp_path, whole + holed)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ('"meta": ' + '{"a":' * 20_000 + "1" + "}" * 20_000, "too deeply nested"),
        ('"meta": ' + '{"a":' * 900 + "1" + "}" * 900, ""),
        ('"gold": NaN', "finite number"),
        ('"meta": {"a": NaN}', "not one JSON object (Out of range float values"),
        ('"iteration": 1000000000', "less than or equal to 10000, got 1000000000"),
        ('"gold": ' + "9" * 5000, "not one JSON object"),
    ],
)
def test_what_would_take_all_memory_or_the_stack_is_refused_by_line(tmp_path, broken, told):
    text = json.dumps(line(1, 4)) + "\n" + json.dumps(line(2, 4))[:-1] + f", {broken}}}\n"
    if told:
        message = refused(tmp_path, text)
        assert told in message
        assert "line 2: " in message
    else:
        assert bring(tmp_path, text).database.is_file()
