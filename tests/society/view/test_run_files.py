"""The report, the exports and a model's files, served from a run's folder and from nowhere else."""

import json

import pytest

from tests.society.view.conftest import served, write_sums
from tests.society.view.test_pages import links, words


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    runs = tmp_path_factory.mktemp("files") / "runs"
    run = runs / "sums"
    (run / "export" / "debates").mkdir(parents=True)
    write_sums(run / "run.duckdb")
    (runs / "secret.txt").write_text("secret")
    with served(runs) as site:
        yield site, run


def test_a_run_without_files_says_how_they_are_made(shown):
    site, _ = shown
    said = words(site.get("/runs/sums")[1])
    assert "No report yet: society report sums" in said
    assert "No export yet: society export sums" in said
    assert site.get("/runs/sums/report")[0] == 404
    assert "society report sums" in words(site.get("/runs/sums/report")[1])
    assert "Nothing is exported yet" in words(site.get("/runs/sums/exports")[1])


def test_the_report_is_shown_where_it_can_do_nothing(shown):
    site, run = shown
    page = "<style>p { color: red }</style><script>alert(1)</script><p>81 %</p>"
    (run / "report.html").write_text(page)
    status, text, headers = site.get("/runs/sums/report")
    assert (status, text) == (200, page)
    policy = headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    overview = site.get("/runs/sums")[1]
    assert "/runs/sums/report" in links(overview)
    (run / "report.html").unlink()


def test_exported_files_are_listed_and_saved_not_shown(shown):
    site, run = shown
    (run / "export" / "debates" / "a b.csv").write_text("<script>1</script>")
    (run / "export" / "way-out.txt").symlink_to(run.parent / "secret.txt")
    _, text, _ = site.get("/runs/sums/exports")
    (link,) = [link for link in links(text) if link.startswith("/runs/sums/exports/")]
    status, text, headers = site.get(link)
    assert (status, text) == (200, "<script>1</script>")
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment")
    assert headers["content-security-policy"] == "sandbox"


@pytest.mark.parametrize(
    "path",
    ["way-out.txt", "../run.duckdb", "..%2Frun.duckdb", "../../secret.txt", "%2Fetc%2Fpasswd",
     "debates", "nothing", "%00", ""],
)  # fmt: skip
def test_nothing_else_is_served(shown, path):
    site, _ = shown
    status, text, _ = site.get(f"/runs/sums/exports/{path}")
    assert status == 404
    assert "secret" not in words(text).replace("secret.txt", "")


def test_a_models_page_names_its_folder_and_the_code_that_loads_it(shown):
    site, run = shown
    path = "/runs/sums/model?id=tuned-critic"
    assert "Its provider keeps it, under the name w ." in words(site.get(path)[1])
    folder = run / "models" / "w"
    folder.mkdir(parents=True)
    assert "neither an adapter nor a whole model" in words(site.get(path)[1])
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "a/b"}))
    said = words(site.get(path)[1])
    assert str(folder) in said
    assert f"PeftModel.from_pretrained(base, '{folder}')" in said
    assert "AutoModelForCausalLM.from_pretrained('a/b')" in said
    (folder / "adapter_config.json").write_text("no JSON")
    assert "neither an adapter nor a whole model" in words(site.get(path)[1])
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").write_text("{}")
    assert f"AutoModelForCausalLM.from_pretrained('{folder}')" in words(site.get(path)[1])
