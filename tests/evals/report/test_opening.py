"""The first screen of a report: the answer, the diversity, the agents, the models."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from evals.report import export, facts, figures, page, sentences, tables
from evals.report.diversity_answer import answer_diversity
from evals.report.models import TunedModel, show_loading_code
from evals.report.table import NUMBER, SOCIETY, Column, ReportTable, fill
from store.ledger import Store
from store.measures import Diversity
from store.records import Model, Turn, Verdict, Vote

SMALL = {"kinds": ("multiagent",), "questions": 8, "iterations": 1}


def measured(iteration: int, value: float, half: float) -> Diversity:
    return Diversity(
        iteration, "multiagent", "eval", "arithmetic", "sampled", "generator", "embedding",
        "agreeing", "minilm", value, value - half, value + half, 20, 60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("after", "half", "word"),
    [
        (0.24, 0.005, "Yes"),
        (0.30, 0.05, "Yes"),
        (0.23, 0.005, "Yes"),
        (0.20, 0.01, "No"),
        (0.22, 0.03, "Can’t tell"),
        (0.15, 0.12, "Can’t tell"),
    ],
)
def test_diversity_gets_a_plain_answer(
    society_store: Callable[..., Store], after: float, half: float, word: str
) -> None:
    store = society_store(**SMALL, diverse=False)
    store.write(measured(0, 0.24, 0.015), measured(1, after, half))
    [experiment] = facts.collect_facts([store]).experiments
    found = answer_diversity(experiment)
    assert found is not None
    assert found.word == word
    assert f"{100 * after / 0.24:.0f} % of the diversity before tuning is left" in found.text


def agreeing(arms_of, untuned: float, tuned: float, *, right: bool):
    """A run whose agents agree on so many of the questions, rightly from iteration 1 on or not."""
    for row in arms_of(**SMALL | {"questions": 40}, diverse=False):
        if isinstance(row, Vote) and row.split == "eval":
            share = tuned if row.iteration else untuned
            place = sum(row.question_id.encode()) % 10
            votes = 3 if place < 10 * share else 1
            yield Vote(
                row.iteration, row.split, row.arm, row.decoding, row.question_id, row.round,
                row.answer, votes, 3, False, bool(row.iteration and right),
            )  # fmt: skip
        elif isinstance(row, Verdict):
            yield Verdict(row.turn_id, row.agrees, right and row.turn_id in TUNED)
        else:
            if isinstance(row, Turn) and row.iteration and row.split == "eval":
                TUNED.add(row.turn_id)
            yield row


TUNED: set[int] = set()


@pytest.mark.parametrize(
    ("untuned", "tuned", "right", "word"),
    [
        (0.3, 1.0, True, "Can’t tell"),
        (0.3, 1.0, False, "No"),
        (0.8, 0.3, False, "Yes"),
    ],
)
def test_agreement_alone_answers_only_what_it_can(
    arms_of, tmp_path: Path, untuned: float, tuned: float, right: bool, word: str
) -> None:
    with Store.open(tmp_path / "run.duckdb") as store:
        store.write(*agreeing(arms_of, untuned, tuned, right=right))
        [experiment] = facts.collect_facts([store]).experiments
        found = answer_diversity(experiment)
    assert found is not None
    assert found.word == word


def test_a_society_of_one_agent_is_not_asked_about_its_diversity(society_store) -> None:
    store = society_store(kinds=("base",), questions=4)
    [experiment] = facts.collect_facts([store]).experiments
    assert answer_diversity(experiment) is None
    assert experiment.agents == ()


def test_agents_are_those_of_the_view(three_seeds) -> None:
    store = three_seeds[0]
    [experiment] = facts.collect_facts([store]).experiments
    assert [each.agent for each in experiment.agents] == [1, 2, 3]
    for each in experiment.agents:
        rows = store.rows(
            "select round, accuracy, ci_low, ci_high from accuracy where arm = 'multiagent' "
            "and iteration = 2 and split = 'eval' and decoding = 'sampled' "
            "and task = 'arithmetic' and measure = 'single' and agent = ? order by round",
            [each.agent],
        )
        found = [
            (n, r.value, r.low, r.high) for n, r in ((1, each.after.first), (2, each.after.last))
        ]
        assert found == [pytest.approx(row) for row in rows]


def test_what_an_arm_says_of_itself_stands_in_the_table_of_arms(three_seeds) -> None:
    whole = facts.collect_facts(three_seeds)
    table = tables.build_tables(whole)["arms"]
    names = [column.name for column in table.columns]
    shown = [(row[0].shown, row[1].shown, row[names.index("outcome")].shown) for row in table.rows]
    assert shown[:2] == [
        ("multiagent", "iteration 2", "–"),
        ("multiagent", "untuned", shown[1][2]),
    ]
    assert shown[1][2] in ("better", "no difference shown")
    assert len(shown) == 1 + len(whole.experiments[0].arms)


def test_a_page_shows_no_empty_column_and_says_once_what_all_rows_share() -> None:
    columns = (
        Column("after", "iteration", lambda row: row, SOCIETY),
        Column("decoding", "decoding", lambda row: "sampled"),
        Column("none", "none", lambda row: None, NUMBER, note="None: never there."),
        Column("n", "n", lambda row: row, NUMBER, note="N: a number."),
    )
    table = ReportTable("t", "T", columns, fill(columns, [1, 2]), "Of all.")
    trimmed = table.trim()
    assert [column.name for column in trimmed.columns] == ["iteration", "n"]
    assert trimmed.explanation == "All rows: decoding sampled. Of all. N: a number."
    assert export.to_csv(table).splitlines()[0] == "iteration,decoding,none,n"


def test_one_arm_and_one_seed_have_no_legend_and_no_word_about_more(society_store) -> None:
    whole = facts.collect_facts([society_store(**SMALL)])
    for figure in figures.build_figures(whole).values():
        assert not figure.needs_legend
        assert "seed" not in figure.caption
    text = re.sub(r"<[^>]*>", " ", page.render_page(whole))
    assert "by seed" not in text
    assert "several seeds" not in text
    assert "Against the alternatives" not in text


def test_panels_of_many_lines_have_the_interval_of_the_main_arm_only(three_seeds) -> None:
    figure = figures.build_figures(facts.collect_facts(three_seeds))["figure-1-accuracy"]
    panel = figure.panels[0]
    assert panel.crowded
    assert [arm for arm in panel.arms if panel.shows_interval(arm)] == ["multiagent"]
    assert "of multiagent; the table has those of the others" in figure.caption


def test_cut_answers_stand_below_the_answer_with_the_remedy(arms_of, tmp_path: Path) -> None:
    from dataclasses import replace

    def cut():
        for number, row in enumerate(arms_of(**SMALL)):
            if isinstance(row, Turn) and row.kind == "answer" and number % 5 < 3:
                yield replace(row, answer=None, finish_reason="length")
            else:
                yield row

    with Store.open(tmp_path / "run.duckdb") as store:
        store.write(*cut())
        [experiment] = facts.collect_facts([store]).experiments
    readings = {each.name: each.share for each in sentences.list_readings(experiment)}
    assert readings["unreadable"] == readings["cut at the token limit"] > 0.4
    advice = sentences.advise_on_readings(experiment)
    assert advice is not None
    assert "raise sampling.max_tokens (now 112)" in advice
    assert not any(
        "evaluation questions no answer" in text for text in sentences.list_notices(experiment)
    )


def test_the_models_are_the_newest_of_every_agent_and_role(society_store) -> None:
    store = society_store(**SMALL)
    made = (
        ("a1-g-1", 1, "multiagent", 1, "generator"),
        ("a1-c-0", 0, "multiagent", 1, "critic"),
        ("a1-g-0", 0, "multiagent", 1, "generator"),
        ("other", 1, "star", 0, "generator"),
    )
    store.write(
        Model("base", "embedded:"),
        *(Model(name, "embedded:", "base", name, None, None, None, *of) for name, *of in made),
    )
    whole = facts.collect_facts([store])
    assert [model.model_id for model in whole.experiments[0].models] == ["a1-g-1", "a1-c-0"]
    shown = page.render_page(whole)
    assert "runs/arms-s0/models" in shown
    assert "PeftModel.from_pretrained(base, &#39;runs/arms-s0/models/a1-g-1&#39;)" in shown


def test_a_model_that_a_provider_keeps_has_no_code() -> None:
    model = TunedModel(
        "r",
        1,
        "critic",
        1,
        "m",
        "openai:gpt",
        "ft:gpt:x",
    )
    assert show_loading_code(model, full=False) is None
    assert model.place == "ft:gpt:x"


def test_the_loading_code_loads_an_adapter(tmp_path: Path, monkeypatch) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from providers.embedded import MODEL_DIR

    base = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    tuned = peft.get_peft_model(base, peft.LoraConfig(r=2, task_type="CAUSAL_LM"))
    tuned.save_pretrained(tmp_path / "runs/demo/models/a1")
    monkeypatch.chdir(tmp_path)
    for address in ("embedded:", f"local:{MODEL_DIR}"):
        model = TunedModel("demo", 1, "generator", 1, "a1", address, "a1")
        code = show_loading_code(model, full=False)
        assert code is not None
        there: dict[str, object] = {}
        exec(code, there)
        assert isinstance(there["model"], peft.PeftModel)
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer):
        kind.from_pretrained(MODEL_DIR).save_pretrained(tmp_path / "runs/demo/models/whole")
    whole = TunedModel("demo", 1, "generator", 1, "w", "embedded:", "whole")
    code = show_loading_code(whole, full=True)
    assert code is not None
    exec(code, there)
    assert type(there["model"]).__name__ == type(base).__name__
