"""How fast a report with 100,000 rollouts opens, how large it is, and how long it takes to write.

    python benchmarks/report.py [--rollouts 100000] [--words 40]

Opens the page in headless Chromium from disk, several times with a fresh profile, and prints the median time
from navigation to the first rollouts in the list. Beside it, in the same browser: the same rollouts
as a page that holds them all as plain HTML, which is what a report without packing and lazy rows would be.
"""

from __future__ import annotations

import argparse
import html
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow.parquet as pq
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from reasonkit.report import write_report
from tests.synthetic_run import write_run

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SINCE_NAVIGATION = """
const done = arguments[0];
const look = () => (READY) ? requestAnimationFrame(() => done(performance.now())) : setTimeout(look, 5);
look();
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=0, help="random numbers added to each reply")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = max(1, options.rollouts // 1000)
        run = write_run(folder / "run", steps=steps, prompts=125, n=8, items=10, words=options.words)
        wall, cpu = time.perf_counter(), time.process_time()
        written = write_report([run.path], run.report)
        print(f"rollouts in the run      {written.total:>9,}")
        print(f"rollouts in the page     {written.shown:>9,}")
        print(f"page                     {run.report.stat().st_size / 1e6:>9.2f} MB")
        print(
            f"writing it               {time.process_time() - cpu:>9.1f} CPU-s, {time.perf_counter() - wall:.1f} s"
        )
        plain = write_plain_page(folder / "plain.html", [run.rollouts(step) for step in run.rollout_steps()])
        print(f"the same as plain HTML   {plain.stat().st_size / 1e6:>9.2f} MB")
        lazy = [opening(run.report, "document.documentElement.dataset.ready") for _ in range(options.repeats)]
        eager = [opening(plain, "document.readyState === 'complete'") for _ in range(options.repeats)]
        print(f"opening the page         {statistics.median(lazy):>9.2f} s   ({spread(lazy)})")
        print(f"opening the plain page   {statistics.median(eager):>9.2f} s   ({spread(eager)})")
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def opening(page: Path, ready: str) -> float:
    """Seconds from navigation until the page shows its rollouts."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        options.page_load_strategy = "none"
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver")))
        )
        try:
            driver.set_script_timeout(300)
            driver.get(page.as_uri())
            WebDriverWait(driver, 300).until(lambda each: each.current_url == page.as_uri())
            return float(driver.execute_async_script(SINCE_NAVIGATION.replace("READY", ready))) / 1000
        finally:
            driver.quit()


def write_plain_page(path: Path, files: list[Path]) -> Path:
    with path.open("w", encoding="utf-8") as page:
        page.write("<!DOCTYPE html><meta charset=utf-8><title>plain</title><table>")
        for file in files:
            for row in pq.read_table(file).to_pylist():
                cells = (row["step"], row["status"], row["reward"], row["prompt"], row["text"], row["reason"])
                page.write("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return path


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f} over {len(values)}"


if __name__ == "__main__":
    main()
