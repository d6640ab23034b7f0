"""The report in a real browser, from disk: what it shows, not what its source holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from tests.synthetic_run import write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver: apt-get install chromium-driver"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1000",
    "--force-prefers-reduced-motion",
)  # fmt: skip
STEPS = 80


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with their reports, written by the command: one of `first`, one of both."""
    folder = tmp_path_factory.mktemp("report")
    write_run(folder / "runs" / "first", steps=STEPS)
    write_run(folder / "runs" / "second", steps=20, seed=1)
    for arguments in (
        ["first", "--title", "Sums <by> GRPO"],
        ["first", "second", "--rename", "second=baseline", "--output", "both.html"],
    ):
        subprocess.run([sys.executable, "-m", "reasonkit", "report", *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    browser.get(page.as_uri())
    WebDriverWait(browser, 30).until(
        lambda each: each.execute_script("return document.documentElement.dataset.ready") == "true"
    )
    return browser


@pytest.fixture
def page(browser: webdriver.Chrome, runs: Path) -> webdriver.Chrome:
    return opened(browser, runs / "runs" / "first" / "report.html")


def choose(page: webdriver.Chrome, name: str, text: str) -> None:
    Select(page.find_element(By.NAME, name)).select_by_visible_text(text)


def rows(page: webdriver.Chrome) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, ".rows .row")


def reply_shown(page: webdriver.Chrome) -> str:
    WebDriverWait(page, 10).until(lambda each: each.find_elements(By.CSS_SELECTOR, ".detail .reply"))
    return page.find_element(By.CLASS_NAME, "detail").text


def test_the_headline_shows_before_and_after_with_intervals(page: webdriver.Chrome, runs: Path) -> None:
    table = page.find_element(By.CSS_SELECTOR, ".results").text
    for phase, step in (("before", 0), ("after", STEPS)):
        content = json.loads((runs / "runs/first/eval" / f"step_{step}.json").read_text())
        for decoding in ("sampled", "greedy"):
            numbers = content[decoding]
            assert f"{100 * numbers['accuracy']:.1f} %" in table, phase
            assert f"{100 * numbers['low']:.1f} to {100 * numbers['high']:.1f}" in table, phase
    assert "points" in table
    assert "p < 0.001" in table


def test_the_title_is_text_and_not_markup(page: webdriver.Chrome) -> None:
    assert page.find_element(By.TAG_NAME, "h1").text == "Sums <by> GRPO"


def test_curves_are_drawn_with_a_point_a_step(page: webdriver.Chrome) -> None:
    for key in ("reward", "accuracy", "entropy", "kl", "length", "tokens_per_second", "zero_variance"):
        curve = page.find_element(By.CSS_SELECTOR, f"#chart-{key} path.curve")
        assert curve.get_attribute("d").count("L") == STEPS - 1, key
        assert curve.size["width"] > 300, f"{key} is drawn over the plot's width"
    marks = page.find_elements(By.CSS_SELECTOR, "#chart-accuracy circle.dot")
    assert len(marks) >= 4, "before and after, sampled and greedy"


def test_the_rising_reward_rises_on_screen(page: webdriver.Chrome) -> None:
    d = page.find_element(By.CSS_SELECTOR, "#chart-reward path.curve").get_attribute("d")
    heights = [float(point.split()[1]) for point in d[1:].split("L")]
    assert heights[-1] < heights[0] - 50, "pixels count downwards"


def test_ticks_are_told_apart_by_their_digits(page: webdriver.Chrome) -> None:
    for plot in page.find_elements(By.CLASS_NAME, "plot"):
        ticks = [tick.text for tick in plot.find_elements(By.CSS_SELECTOR, 'text[text-anchor="end"]')]
        assert len(ticks) >= 2
        assert len(set(ticks)) == len(ticks), ticks


def test_a_metric_that_nobody_foresaw_has_a_chart_too(page: webdriver.Chrome) -> None:
    assert page.find_element(By.CSS_SELECTOR, "#chart-mood path.curve").is_displayed()


def test_pointing_at_a_curve_tells_the_values(page: webdriver.Chrome) -> None:
    plot = page.find_element(By.CSS_SELECTOR, "#chart-accuracy .plot")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    webdriver.ActionChains(page).move_to_element(plot).perform()
    tip = plot.find_element(By.CLASS_NAME, "tip")
    assert tip.is_displayed()
    assert tip.text.startswith("step ")
    assert "training rollouts: " in tip.text
    assert "%" in tip.text


def test_choosing_a_rollout_shows_prompt_reply_verdict_and_reward_parts(page: webdriver.Chrome) -> None:
    choose(page, "place", "training")
    choose(page, "status", "wrong")
    rows(page)[0].click()
    shown = reply_shown(page)
    assert shown.startswith("wrong")
    assert " is not " in shown, "the verifier's reason"
    assert "<b>&amp; show each step</b>" in shown, "markup in a problem is shown, not interpreted"
    assert not page.find_elements(By.CSS_SELECTOR, ".detail b")
    for fact in ("reward part brevity\n-0.1", "reward part correctness\n0", "right answer", "ended by\nstop"):
        assert fact in shown


def test_the_step_filter_leaves_that_step_only(page: webdriver.Chrome) -> None:
    choose(page, "step", "7")
    assert page.find_element(By.NAME, "count").text == "16 replies"
    assert all("step 7" in row.text for row in rows(page))


def test_best_and_worst_first(page: webdriver.Chrome) -> None:
    choose(page, "place", "training")
    choose(page, "order", "best first")
    assert "reward 0.9" in rows(page)[0].text
    choose(page, "order", "worst first")
    assert "reward -0.1" in rows(page)[0].text


def test_held_out_replies_can_be_read(page: webdriver.Chrome) -> None:
    choose(page, "place", "held out, greedy")
    assert page.find_element(By.NAME, "count").text == "80 replies"
    rows(page)[0].click()
    assert "held out, greedy, step 0" in reply_shown(page)


def test_only_rows_in_sight_exist_and_the_keyboard_reaches_the_last(page: webdriver.Chrome) -> None:
    listing = page.find_element(By.CLASS_NAME, "list")
    count = int(page.find_element(By.NAME, "count").text.split()[0].replace(",", ""))
    assert count == 4 * 4 * STEPS + 2 * 40 * 3
    assert len(rows(page)) < 40
    listing.send_keys(Keys.END)
    assert f"step {STEPS}" in reply_shown(page)
    assert listing.get_attribute("aria-activedescendant") == f"row-{count - 1}"


def test_several_runs_lie_over_each_other(browser: webdriver.Chrome, runs: Path) -> None:
    page = opened(browser, runs / "both.html")
    legend = page.find_element(By.CSS_SELECTOR, "#chart-reward .legend").text.split("\n")
    assert legend == ["first", "baseline"]
    lines = page.find_elements(By.CSS_SELECTOR, "#chart-reward path.curve")
    assert len({line.value_of_css_property("stroke") for line in lines}) == 2
    choose(page, "run", "baseline")
    assert page.find_element(By.NAME, "count").text == f"{4 * 4 * 20 + 2 * 40 * 3} replies"


def test_recipe_and_environment_are_there(page: webdriver.Chrome) -> None:
    assert "Sums of three numbers" in page.find_element(By.CSS_SELECTOR, "#recipe pre").text
    environment = page.find_element(By.ID, "environment").text
    assert "torch 2.13.0" in environment
    assert "threads\n1" in environment


def test_dark_mode_changes_the_ground(page: webdriver.Chrome) -> None:
    def ground() -> str:
        return page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")

    light = ground()
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert ground() != light
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_is_fetched_and_no_error_is_logged(browser: webdriver.Chrome, runs: Path) -> None:
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    page = opened(browser, runs / "runs" / "first" / "report.html")
    rows(page)[0].click()
    reply_shown(page)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.current_url]
