"""The report of evaluations in a real browser, from disk: what it shows, and that it opens at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from reasonkit.evaluate.samples import SampleFile
from tests.integration.test_report_browser import browser, choose, opened, reply_shown, rows
from tests.integration.test_report_browser import pytestmark as pytestmark
from tests.synthetic_evaluation import write_evaluation

__all__ = ["browser"]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations")
    write_evaluation(folder / "both")
    write_evaluation(folder / "one", models={"small": 0.3}, tasks=1)
    for arguments in (["both", "--title", "Two <models>"], ["one/results.json", "--output", "one.html"]):
        subprocess.run([sys.executable, "-m", "reasonkit", "report", *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture
def page(browser: webdriver.Chrome, evaluation: Path) -> webdriver.Chrome:
    return opened(browser, evaluation / "both" / "report.html")


def count(page: webdriver.Chrome) -> int:
    return int(page.find_element(By.NAME, "count").text.split()[0].replace(",", ""))


def test_bars_are_as_long_as_the_scores_and_carry_their_intervals(
    page: webdriver.Chrome, evaluation: Path
) -> None:
    results = json.loads((evaluation / "both/results.json").read_text())["results"]
    assert page.find_element(By.TAG_NAME, "h1").text == "Two <models>"
    lines = page.find_elements(By.CSS_SELECTOR, "#bars-tasks .bar-line")
    assert len(lines) == len(results) == 6
    by_pair = {(result["task"], result["model"]): result["scores"]["strict"]["score"] for result in results}
    expected = [by_pair[f"task{task}", model] for task in range(3) for model in ("small", "large")]
    for line, score in zip(lines, expected, strict=True):
        track, fill, reach = (
            line.find_element(By.CSS_SELECTOR, each).size["width"]
            for each in (".bar-track", ".fill", ".reach")
        )
        assert fill / track == pytest.approx(score["mean"], abs=0.02)
        assert reach / track == pytest.approx(score["high"] - score["low"], abs=0.02)
        assert line.text == f"{100 * score['mean']:.1f}"


def test_table_breakdown_length_and_paired_differences_are_there(page: webdriver.Chrome) -> None:
    table = page.find_element(By.ID, "table").text
    assert "mean of tasks" in table
    assert "40 × 2" in table
    assert len(page.find_elements(By.CSS_SELECTOR, "#bars-task0-level .bar-row")) == 3
    assert len(page.find_elements(By.CSS_SELECTOR, "#chart-length circle.dot")) >= 4
    differences = page.find_element(By.ID, "differences").text
    assert "large against small" in differences
    assert "< 0.001" in differences


def test_replies_are_filtered_by_model_task_and_verdict(page: webdriver.Chrome) -> None:
    assert count(page) == 2 * 3 * 40 * 2
    choose(page, "model", "small")
    assert count(page) == 3 * 40 * 2
    choose(page, "task", "task1")
    assert count(page) == 40 * 2
    choose(page, "status", "wrong")
    wrong = count(page)
    assert 0 < wrong < 80
    assert all("task1, small" in row.text and "wrong" in row.text for row in rows(page))
    choose(page, "status", "correct")
    assert count(page) + wrong <= 80


def test_a_reply_opens_with_its_prompt_verdict_and_facts(page: webdriver.Chrome) -> None:
    choose(page, "model", "large")
    choose(page, "status", "wrong")
    rows(page)[0].click()
    shown = reply_shown(page)
    assert "nothing is not right" in shown
    assert "<b>&amp; why</b>" in shown, "markup in a problem is shown, not interpreted"
    for fact in ("model\nlarge", "task\ntask0", "score\n0", "ended by\nstop"):
        assert fact in shown


def test_a_failed_sample_says_why(page: webdriver.Chrome) -> None:
    choose(page, "status", "failed")
    rows(page)[0].click()
    assert "the server is gone" in reply_shown(page)


def test_one_task_of_one_model_needs_no_filters_and_no_comparison(
    browser: webdriver.Chrome, evaluation: Path
) -> None:
    page = opened(browser, evaluation / "one.html")
    assert not page.find_element(By.NAME, "model").is_displayed()
    assert not page.find_element(By.NAME, "task").is_displayed()
    assert not page.find_elements(By.ID, "differences")
    assert count(page) == 80


def test_nothing_is_fetched_and_no_error_is_logged(browser: webdriver.Chrome, evaluation: Path) -> None:
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    page = opened(browser, evaluation / "both" / "report.html")
    rows(page)[0].click()
    reply_shown(page)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.current_url]


NASTY = (
    "",
    "é 日本語 🎉 \u202eright to left\u202c",
    "</script><script>document.title = 'owned'</script><img src=x onerror=document.title='owned'>",
    "a null \x00, a bell \x07, \x1b[31mred",
    "half a pair \ud800, and lines \u2028 that \u2029 JavaScript once broke at",
    "{{ template }} ${expression} `tick` &amp;",
    "long " * 20_000,
)

SHOWN = "return document.querySelector('.detail .reply')?.textContent.toWellFormed() ?? null"
"""A driver cannot carry half a pair."""


def test_whatever_a_model_writes_is_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    from reasonkit.report import write_evaluation_report

    folder = write_evaluation(tmp_path / "nasty", models={"m": 0.5}, tasks=1, items=len(NASTY), k=1)
    pair = folder.pair("m", "task0")
    with SampleFile(pair) as file:
        keys = list(file.by_key)
        wanted = dict(zip(keys, NASTY, strict=True))
    lines = [json.loads(line) for line in (pair / "samples.jsonl").read_text().splitlines()]
    lines = [line | {"text": wanted[line["key"]], "failure": None} for line in lines]
    (pair / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_evaluation_report([folder.path], folder.report)
    page = opened(browser, folder.report)
    title, left = page.title, {text.replace("\ud800", "\ufffd") for text in NASTY}

    def those_shown(each: webdriver.Chrome) -> set[str]:
        return left & {each.execute_script(SHOWN)}

    for number in range(len(NASTY)):
        rows(page)[number].click()
        left -= WebDriverWait(page, 10).until(those_shown)
    assert left == set()
    assert page.title == title


@pytest.mark.slow
def test_a_hundred_thousand_samples_open_in_time(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Opened and ready: benchmarks/eval.py says in how many seconds."""
    from reasonkit.report import write_evaluation_report

    folder = write_evaluation(tmp_path / "large", tasks=10, items=1000, k=5)
    written = write_evaluation_report([folder.path], folder.report)
    assert written.total == 100_000
    assert folder.report.stat().st_size < 5_000_000
    page = opened(browser, folder.report)
    assert count(page) == written.shown
