"""What the progress display and plain lines show of a run."""

import io
import itertools

import pytest
from rich.console import Console
from rich.progress import Progress

from providers.opening import listen_to_openings, tell_opening
from society.method.progress import Note, StageAdvanced, StageFinished, StageStarted
from society.terminal.duration import format_duration
from society.terminal.opening_display import show_openings
from society.terminal.progress_display import PlainLines, ProgressDisplay, show_progress

DEBATE = StageStarted(iteration=2, stage="debate", unit="questions", total=40, done=10)


def lines_of(events, seconds) -> list[str]:
    out = io.StringIO()
    ticks = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    observe = PlainLines(out, iterations=3, every_s=10, now=lambda: next(ticks))
    for event in events:
        observe(event)
    return out.getvalue().splitlines()


def test_plain_lines_at_start_and_end_and_sometimes_between() -> None:
    lines = lines_of(
        [DEBATE, StageAdvanced(12, 100), StageAdvanced(30, 4000), StageFinished(75)],
        [0, 3, 20, 75],
    )
    assert lines == [
        "iteration 2/3 · debate: 40 questions, 10 of them done before",
        "iteration 2/3 · debate: 30/40 questions · 1.0/s · 200 tokens/s · 10 s left",
        "iteration 2/3 · debate: 40 questions in 1 min 15 s",
    ]


def test_slow_work_is_told_by_the_minute() -> None:
    jobs = StageStarted(1, "finetune", "jobs", 6, 0)
    lines = lines_of([jobs, StageAdvanced(1.5, 0, "agent 1 generator")], [0, 60])
    assert lines[1] == (
        "iteration 1/3 · finetune: 1/6 jobs · 1.5/min · 3 min 00 s left · agent 1 generator"
    )


def test_the_untuned_society_is_called_so() -> None:
    [line] = lines_of([StageStarted(0, "evaluate greedy", "questions", 9, 0)], [0])
    assert line == "untuned society · evaluate greedy: 9 questions"


def test_plain_lines_hold_no_control_codes() -> None:
    [line] = lines_of([Note("a model said \x1b[2J\nand\tmore\r")], [0])
    assert line == "a model said [ESC[2J] and more[CR]"


def test_events_out_of_a_stage_are_no_error() -> None:
    assert lines_of([StageAdvanced(1), StageFinished(1)], [0]) == []


def test_live_display_draws_the_stage_and_keeps_what_is_finished() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    with Progress(console=console) as progress:
        observe = ProgressDisplay(progress, iterations=3)
        for event in (DEBATE, StageAdvanced(20, 50, "[red]x"), Note("[b]odd\x1b[2J"), DEBATE):
            observe(event)
        assert len(progress.tasks) == 1
        assert progress.tasks[0].completed == 10
        observe(StageFinished(5))
        assert not progress.tasks
    assert "iteration 2/3 · debate: 40 questions in 5 s" in screen.getvalue()
    assert "[b]odd[ESC[2J]" in screen.getvalue()


def test_a_stream_that_is_no_terminal_gets_plain_lines() -> None:
    out = io.StringIO()
    with show_progress(out, 1) as observe:
        observe(DEBATE)
    assert out.getvalue() == "iteration 2/1 · debate: 40 questions, 10 of them done before\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_steps_of_opening_a_model_are_lines_in_a_file() -> None:
    out = io.StringIO()
    with show_progress(out, 1), tell_opening("m\x1b[2J.gguf", 2) as begin:
        begin("reading the tokenizer")
        begin("unpacking the weights")
    assert out.getvalue().splitlines() == [
        "opening m[ESC[2J].gguf: reading the tokenizer (step 1 of 2)",
        "opening m[ESC[2J].gguf: unpacking the weights (step 2 of 2)",
    ]


def test_who_wants_quiet_is_told_of_no_opening() -> None:
    out = io.StringIO()
    with show_progress(out, 1, quiet=True), show_openings(out), tell_opening("m", 1) as begin:
        begin("reading the weights")
    assert out.getvalue() == ""


def test_on_a_terminal_a_step_is_shown_while_it_lasts() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with Progress(console=console, auto_refresh=False) as progress:
        display = ProgressDisplay(progress, 1)
        with listen_to_openings(display.show_opening), tell_opening("m", 2) as begin:
            begin("reading the tokenizer")
            begin("reading the weights")
            [task] = progress.tasks
            assert task.description == "opening m: reading the weights (step 2 of 2)"
        assert progress.tasks == []
