"""Results in words: the rows of the table that the terminal and the page show, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reasonkit.evaluate.results import Scores, TaskResult, suites
from reasonkit.evaluate.stats import Estimate

NOTHING = "–"
MANY = 0.01
"""Above this fraction of samples, what went wrong is worth a word."""
COLUMNS = (
    "model", "task", "n × k", "score, 95 %", "pass@k", "no answer", "truncated", "grader error", "timeout",
    "tokens", "cost", "published",
)  # fmt: skip


def rows(results: Sequence[TaskResult]) -> Iterator[tuple[str, ...]]:
    """A row a model and task, and below each model of several tasks their mean."""
    means = suites(results)
    for model in dict.fromkeys(result.model for result in results):
        yield from (_row(result) for result in results if result.model == model)
        if model in means:
            yield (model, "mean of tasks", "", score_words(means[model]), *[""] * (len(COLUMNS) - 4))


def _row(result: TaskResult) -> tuple[str, ...]:
    own = result.scores.get(result.grader)
    rates = own.rates if own else None
    shares = (rates.no_answer, rates.truncated, rates.grader_error, rates.timeout) if rates else ()
    return (
        result.model,
        result.task,
        f"{result.n:,} × {result.k}",
        score_words(own.score) if own else NOTHING,
        pass_words(own, result.pass_at),
        *(_share(share) for share in shares),
        *[NOTHING] * (4 - len(shares)),
        f"{result.prompt_tokens + result.completion_tokens:,}",
        NOTHING if result.cost is None else f"${result.cost:.2f}",
        published_words(result),
    )


def score_words(score: Estimate) -> str:
    return f"{100 * score.mean:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def pass_words(scores: Scores | None, k: int) -> str:
    if scores is None or f"pass@{k}" not in scores.at_k:
        return NOTHING
    return f"{100 * scores.at_k[f'pass@{k}']:.1f} @{k}"


def published_words(result: TaskResult) -> str:
    """The published scores that stand nearest above and below, or all of a few."""
    reference: dict[str, float] = result.about["reference"]
    if not reference:
        return NOTHING
    best = sorted(reference.items(), key=lambda each: -each[1])
    shown = best if len(best) <= 2 else (best[0], best[-1])
    return ", ".join(f"{model} {score:g}" for model, score in shown)


def _share(share: float) -> str:
    return f"{100 * share:.1f} %" if share else "0"


def warnings(results: Sequence[TaskResult]) -> Iterator[str]:
    """What went wrong in more than the fraction MANY of a task's samples."""
    for result in results:
        own = result.scores.get(result.grader)
        if own is None:
            continue
        rates = {
            "were cut at the length limit (--max-tokens)": own.rates.truncated,
            "have no answer that the grader could find": own.rates.no_answer,
            "were too costly to check": own.rates.timeout,
            "could not be judged: the grader failed": own.rates.grader_error,
            "failed: there is no reply": own.rates.failed,
        }
        for words, share in rates.items():
            if share > MANY:
                yield f"{result.model}, {result.task}: {100 * share:.1f} % of the samples {words}"
