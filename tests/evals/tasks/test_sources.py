"""Reading data files, above all the broken ones."""

import re

import pytest

from evals.tasks.sources import formats
from evals.tasks.sources.rows import DataRow


def refused(path, pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        formats.read_rows(path)
    assert str(path) in str(caught.value)


def test_json_lines_keep_their_line_numbers_across_blank_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"q": "one"}\r\n\n  \n{"q": "two"}')
    assert [(row.number, row.fields) for row in formats.read_rows(path)] == [
        (1, {"q": "one"}),
        (4, {"q": "two"}),
    ]


def test_a_unicode_line_separator_inside_a_string_ends_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert formats.read_rows(path)[0].fields == {"q": "a\u2028b\x85c"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q": \n', r"line 2: broken JSON: .*one JSON object"),
        ("a.jsonl", b'{"q": NaN}', r"line 1: broken JSON: NaN is not JSON"),
        ("a.jsonl", b"[" * 100_000, r"line 1: broken JSON: "),
        ("a.jsonl", b'{"q": ' + b"1" * 5000 + b"}", r"line 1: broken JSON: "),
        ("a.jsonl", b'{"q": 1}\n["q"]', r"line 2: list instead of an object"),
        ("a.jsonl", b'{"q": "ok"}\n{"q": "\xe4"}', r"line 2: byte 0xe4 is not UTF-8; save"),
        (
            "a.jsonl",
            '{"q": "ü"}'.encode("utf-16"),
            r"a.jsonl is UTF-16 or UTF-32 text; save",
        ),
        ("a.jsonl", b" \n\n", r"has no rows"),
        ("a.json", b'{"q": 1}\n{"q": 2}', r"line 2: broken JSON: .*name it .jsonl"),
        ("a.json", b'{"q": 1}', r"dict instead of a list"),
        ("a.json", b'[{"q": 1}, 2]', r"item 2: int instead of an object"),
        ("a.json", b"[]", r"has no rows"),
        ("a.csv", b"", r"has no rows"),
        ("a.csv", b"q,a\n", r"has no rows"),
        ("a.csv", b"q,a\n1,2\n1,2,3\n", r"line 3: 3 cells, but the header names 2 columns"),
        ("a.csv", b'q,a\n"x\ny",2\n1\n', r"line 4: 1 cells, but the header names 2"),
        ("a.csv", b"q,a,q\n1,2,3\n", r"line 1: the header has 'q' twice; rename one"),
        ("a.csv", b",\n1,2\n", r"line 1: the header is empty"),
        ("a.csv", b'q,a\n1,2\n"open,3\n4,5\n', r"line 3: broken CSV: .*check the quotes"),
        ("a.csv", b'q,a\n1,"2"x\n', r"line 2: broken CSV: "),
        ("a.parquet", b"", r"cannot be read as parquet: .*write or download it again"),
        ("a.parquet", b"PAR1" + b"\x00" * 100 + b"PAR1", r"cannot be read as parquet"),
        ("a.xml", b"", r"unknown kind of file '.xml'; use .jsonl, .json, .csv, .parquet, .txt"),
        ("a.txt", b"\n \n", r"has no rows"),
        ("plain", b"", r"unknown kind of file ''"),
    ],
)
def test_a_broken_file_is_named_with_place_and_remedy(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, message)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    refused(tmp_path / "no.jsonl", "does not exist .*check the path")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "is a folder, not a file")


def test_csv_cells_may_span_lines_and_unnamed_columns_are_left_out(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf, q ,a\r\n0,"one\r\nmore, ""quoted""",1\r\n\r\n1,two,2\r\n')
    assert [(row.number, row.fields) for row in formats.read_rows(path)] == [
        (2, {"q": 'one\r\nmore, "quoted"', "a": "1"}),
        (5, {"q": "two", "a": "2"}),
    ]


def test_a_text_file_has_a_question_on_each_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone, two\r\n\n  three \n")
    assert [(row.number, row.fields) for row in formats.read_rows(path)] == [
        (1, {"question": "one, two"}),
        (3, {"question": "three"}),
    ]


def test_parquet_rows_keep_lists_and_numbers(tmp_path, parquet):
    rows = [{"q": "one", "choices": ["a", "b"], "answer": 1}]
    written = parquet("t.parquet", rows)
    odd = tmp_path / "subject=x" / "it's [1] * ?.parquet"
    odd.parent.mkdir()
    odd.write_bytes(written.read_bytes())
    [row] = formats.read_rows(odd)
    assert (row.unit, row.number, row.fields) == ("row", 1, rows[0])


def a_row(**fields):
    return DataRow("f.jsonl", "line", 7, fields)


@pytest.mark.parametrize(
    ("value", "text"),
    [(" x ", "x"), (3, "3"), (2.5, "2.5"), (True, "true"), ("", None), (" \n", None), (None, None)],
)
def test_values_become_text(value, text):
    assert a_row(q=value).optional("q") == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], r"'q' must be text or a number, not \[1\]"),
        ({"a": 1}, r"'q' must be text or a number"),
        ("\ud800", r"'q' contains U\+D800, half a character"),
        ("a\x00b", r"'q' contains a NUL character"),
        (None, r"'q' is empty; fill it in or remove the row"),
    ],
)
def test_values_that_cannot_be_asked_name_the_row(value, message):
    with pytest.raises(ValueError, match=r"^f\.jsonl, line 7: .*" + message):
        a_row(q=value).text("q")


def test_a_missing_field_lists_those_there():
    with pytest.raises(
        ValueError, match=re.escape("the field 'q' is missing (fields there: a, b)")
    ):
        a_row(a=1, b=2).text("q")


def test_a_list_is_asked_for_where_a_list_is_needed():
    assert a_row(c=["a ", 2, None]).texts("c") == ["a", "2", ""]
    with pytest.raises(ValueError, match="'c' must be a list, not 'a, b'"):
        a_row(c="a, b").texts("c")


def test_a_hundred_thousand_rows_are_all_there(tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_text("".join(f'{{"q": "question {n}"}}\n' for n in range(100_000)))
    assert formats.read_rows(path)[-1].fields == {"q": "question 99999"}
