"""Answers of reasoning-gym tasks worked out anew, from the question as it is put, for the audit of labels.

Each solver reads an item's question and says what is right, as text or as a test of an answer. None of the
library's code is used."""

from __future__ import annotations

import ast
import datetime
import itertools
import json
import math
import re
from collections import Counter, deque
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

Grid = list[list[str]]


def last(pattern: str, question: str) -> re.Match[str]:
    found = list(re.finditer(pattern, question, re.DOTALL))
    assert found, (pattern, question[-300:])
    return found[-1]


def grids(question: str) -> list[Grid]:
    """Blocks of lines of space-separated single cells, at least two lines long."""
    blocks: list[Grid] = []
    current: Grid = []
    for line in [*question.split("\n"), ""]:
        cells = line.split()
        if len(cells) > 1 and all(re.fullmatch(r"-?\d+|[OXQ*#_]", cell) for cell in cells):
            current.append(cells)
        else:
            blocks += [current] if len(current) > 1 else []
            current = []
    return blocks


def arithmetic(text: str, number: Callable[[str], Any] = Fraction) -> Any:
    """The value of + - * / // << >> & | ^ and brackets, exactly."""
    numbers = re.sub(r"0x[0-9a-f]+|\d+(?:\.\d+)?", lambda found: f"N('{found[0]}')", text)
    return eval(numbers, {"N": number})


def neighbours(row: int, column: int) -> list[tuple[int, int]]:
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


def distances(grid: Grid, sources: list[tuple[int, int]], walls: str = "") -> dict[tuple[int, int], int]:
    found = dict.fromkeys(sources, 0)
    waiting = deque(sources)
    while waiting:
        here = waiting.popleft()
        for row, column in neighbours(*here):
            inside = 0 <= row < len(grid) and 0 <= column < len(grid[0])
            if inside and (row, column) not in found and grid[row][column] not in walls:
                found[row, column] = found[here] + 1
                waiting.append((row, column))
    return found


def places(grid: Grid, mark: str) -> list[tuple[int, int]]:
    return [(r, c) for r, row in enumerate(grid) for c, cell in enumerate(row) if cell == mark]


def same_number(wanted: Any) -> Callable[[str], bool]:
    return lambda answer: Fraction(answer.replace(",", "")) == wanted


def same_value(wanted: Any) -> Callable[[str], bool]:
    return lambda answer: ast.literal_eval(answer) == wanted


Right = str | Callable[[str], bool]
Solver = Callable[[str], Right]


def expression(question: str) -> Right:
    found = last(r"([-+*/(). \d]*\d[) ]*)(?:=|\.|\?|$)\s*(?:Give|Put|$|=|\?)?", question)
    return same_number(arithmetic(found[1].strip()))


def sum_at_the_end(question: str) -> Right:
    return same_number(arithmetic(last(r":\s*([-+*/(). \d]+?)\s*=?\s*\??\s*$", question)[1]))


def product(question: str) -> Right:
    return same_number(arithmetic(last(r"((?:-?\d+ [*] )+-?\d+)", question)[1]))


def numbers_after_colon(question: str) -> list[int]:
    return [int(each) for each in re.findall(r"-?\d+", last(r":([-\d, ]+)", question)[1])]


def gcd(question: str) -> Right:
    return str(math.gcd(*numbers_after_colon(question)))


def lcm(question: str) -> Right:
    return str(math.lcm(*numbers_after_colon(question)))


def prime_factorization(question: str) -> Right:
    number, factors = int(last(r"factorization of (\d+)", question)[1]), []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return " × ".join(map(str, factors))


def fraction_simplification(question: str) -> Right:
    above, below = re.findall(r"\d+", last(r"fraction (.*?) to its", question)[1])
    simple = Fraction(int(above), int(below))
    return lambda answer: re.findall(r"\d+", answer) == [str(simple.numerator), str(simple.denominator)]


def base_conversion(question: str) -> Right:
    source, number, target = last(r"the (\S+) number ([0-9a-z]+) to (\S+)$", question.strip()).groups()
    value, base, digits = int(number, _base(source)), _base(target), ""
    while value:
        value, digit = divmod(value, base)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


def _base(name: str) -> int:
    named = {"binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16}
    return named[name] if name in named else int(name.removeprefix("base-"))


def bitwise_arithmetic(question: str) -> Right:
    value = arithmetic(question.strip().split("\n")[-1], lambda text: int(text, 16))
    return lambda answer: int(answer, 16) == value


def count_bits(question: str) -> Right:
    return str(int(last(r"number (\d+)", question)[1]).bit_count())


def count_primes(question: str) -> Right:
    first, final = map(int, last(r"between (\d+) and (\d+)", question).groups())
    prime = [
        number for number in range(max(2, first), final + 1) if all(number % d for d in _up_to_root(number))
    ]
    return str(len(prime))


def _up_to_root(number: int) -> range:
    return range(2, math.isqrt(number) + 1)


def number_sorting(question: str) -> Right:
    found = last(r"Sort these numbers in (ascending|descending) order: ([-\d., ]+)\n", question)
    values = sorted((float(each) for each in found[2].split(",")), reverse=found[1] == "descending")
    return lambda answer: [float(each) for each in ast.literal_eval(answer)] == values


def number_filtering(question: str) -> Right:
    found = last(
        r"(Keep|Remove) all numbers (larger|smaller) than (-?[\d.]+) in this list: (\[.*?\])", question
    )
    limit = Decimal(found[3])
    kept = [
        each
        for each in ast.literal_eval(found[4])
        if (Decimal(each) > limit if found[2] == "larger" else Decimal(each) < limit) == (found[1] == "Keep")
    ]
    return same_value(kept)


def spell_backward(question: str) -> Right:
    return last(r"\): (\S+)", question)[1][::-1]


def letter_counting(question: str) -> Right:
    found = last(r'letter "(.)" appear in the text: "(.*)"', question)
    return str(found[2].lower().count(found[1].lower()))


def isomorphic_strings(question: str) -> Right:
    one, other = question.strip().split("\n")[-1].split()
    pairs = set(zip(one, other, strict=True))
    return str(len(pairs) == len(set(one)) == len(set(other)))


def ransom_note(question: str) -> Right:
    note, magazine = last(r"Ransom note: (\w*)\nMagazine: (\w*)", question).groups()
    return str(not Counter(note) - Counter(magazine))


def power_function(question: str) -> Right:
    base, exponent = last(r"Compute (-?[\d.]+)\^(-?\d+)", question).groups()
    value = Fraction(base) ** int(exponent)
    return lambda answer: f"{float(Decimal(answer)):.2e}" == f"{float(value):.2e}"


def simple_equations(question: str) -> Right:
    left, right = last(r"[:a-z] ([-+*/() \d]*\b[a-z]\b[-+*/() \d]*) = (-?\d+)$", question.strip()).groups()
    letter = last(r"\b([a-z])\b", left)[1]
    values = [eval(left, {letter: Fraction(value)}) - int(right) for value in (0, 1)]
    return same_number(-values[0] / (values[1] - values[0]))


def rotate_matrix(question: str) -> Right:
    turned = grids(question)[-1]
    for _ in range(int(last(r"by (\d+) degrees", question)[1]) // 90):
        turned = [list(row) for row in zip(*turned[::-1], strict=True)]
    return "\n".join(" ".join(row) for row in turned)


def spiral_matrix(question: str) -> Right:
    left, order = grids(question)[-1], []
    while left:
        order += left.pop(0)
        left = [list(row) for row in zip(*left, strict=True)][::-1]
    return " ".join(order)


def binary_matrix(question: str) -> Right:
    grid = grids(question)[-1]
    near = distances(grid, places(grid, "0"))
    return "\n".join(" ".join(str(near[r, c]) for c in range(len(grid[0]))) for r in range(len(grid)))


def binary_alternation(question: str) -> Right:
    text = last(r"alternating: ([01]+)", question)[1]
    counts = [text.count("0"), text.count("1")]
    if abs(counts[0] - counts[1]) > 1:
        return "-1"
    costs = []
    for first in "01":
        wanted = "".join(itertools.islice(itertools.cycle(first + "10"[int(first)]), len(text)))
        if wanted.count("0") == counts[0]:
            costs.append(sum(one != other for one, other in zip(text, wanted, strict=True)) // 2)
    return str(min(costs))


def largest_island(question: str) -> Right:
    grid, sizes, seen = grids(question)[-1], [0], set()
    for place in places(grid, "1"):
        if place not in seen:
            island = distances(grid, [place], walls="0").keys()
            seen |= island
            sizes.append(len(island))
    return str(max(sizes))


def rotten_oranges(question: str) -> Right:
    grid = grids(question)[-1]
    reached = distances(grid, places(grid, "2"), walls="0")
    if any(fresh not in reached for fresh in places(grid, "1")):
        return "-1"
    return str(max((reached[fresh] for fresh in places(grid, "1")), default=0))


STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def shortest_path(question: str) -> Right:
    grid = grids(question)[-1]
    start, goal = places(grid, "*")[0], places(grid, "#")[0]
    length = distances(grid, [start], walls="X").get(goal)

    def right(answer: str) -> bool:
        if length is None:
            return answer == "infeasible"
        row, column = start
        for word in answer.split():
            row, column = row + STEPS[word][0], column + STEPS[word][1]
            if not (0 <= row < len(grid) and 0 <= column < len(grid[0])) or grid[row][column] == "X":
                return False
        return (row, column) == goal and len(answer.split()) == length

    return right


def maze(question: str) -> Right:
    start, goal = last(r"from '(.)' \(start\) to '(.)' \(goal\)", question).groups()
    grid = [list(line) for line in last(r"```\n(.*?)\n```", question)[1].split("\n")]
    wall = last(r"'(.)' = Wall", question)[1]
    return str(distances(grid, places(grid, start), walls=wall)[places(grid, goal)[0]])


def course_schedule(question: str) -> Right:
    count = int(last(r"total of (\d+) courses", question)[1])
    needs: dict[int, set[int]] = {course: set() for course in range(count)}
    for course, before in ast.literal_eval(last(r"\n(\[.*?\])\n", question)[1]):
        needs[course].add(before)
    done: set[int] = set()
    while ready := [course for course in needs if course not in done and needs[course] <= done]:
        done |= set(ready)
    return str(len(done) == count)


def sudoku(question: str) -> Right:
    puzzle = grids(question)[-1]
    size = len(puzzle)
    box = math.isqrt(size)

    def right(answer: str) -> bool:
        grid = [line.split() for line in answer.split("\n")]
        keeps = all(
            given in ("_", cell)
            for row, full in zip(puzzle, grid, strict=True)
            for given, cell in zip(row, full, strict=True)
        )
        units = [*grid, *zip(*grid, strict=True)]
        units += [
            [grid[r + i][c + j] for i in range(box) for j in range(box)]
            for r in range(0, size, box)
            for c in range(0, size, box)
        ]
        return keeps and all(sorted(unit) == [str(n) for n in range(1, size + 1)] for unit in units)

    return right


def n_queens(question: str) -> Right:
    given = set(places(grids(question)[-1], "Q"))

    def right(answer: str) -> bool:
        board = [line.split() for line in answer.split("\n")]
        queens = places(board, "Q")
        pairs = itertools.combinations(queens, 2)
        free = all(a != c and b != d and abs(a - c) != abs(b - d) for (a, b), (c, d) in pairs)
        return given <= set(queens) and len(queens) == len(board) and free

    return right


def game_of_life(question: str) -> Right:
    steps = int(last(r"after (\d+) steps?", question)[1])
    return same_value(_lives(json.loads(last(r"\n\n(\[\[[^a-z]*\]\])\.$", question.strip())[1]), steps))


def _lives(grid: list[list[int]], steps: int) -> list[list[int]]:
    height, width = len(grid), len(grid[0])
    for _ in range(steps):
        around = [
            [
                sum(grid[(r + i) % height][(c + j) % width] for i in (-1, 0, 1) for j in (-1, 0, 1))
                - grid[r][c]
                for c in range(width)
            ]
            for r in range(height)
        ]
        grid = [
            [int(around[r][c] == 3 or (around[r][c] == 2 and grid[r][c] == 1)) for c in range(width)]
            for r in range(height)
        ]
    return grid


def game_of_life_halting(question: str) -> Right:
    rows = [list(map(int, line.split())) for line in re.findall(r"\[\[?([01 ]+)\]", question)]
    steps = int(last(r"before (\d+) steps", question)[1])
    return str(any(not any(map(any, _lives(rows, step))) for step in range(steps + 1)))


def mahjong_puzzle(question: str) -> Right:
    """A card makes a sequence with any two of the hand, at its beginning, middle or end."""
    hand, result = Counter(last(r"initial cards ([A-Z]+)", question)[1]), ""
    for card, gone in re.findall(r"Add an? ([A-Z]) card and remove an? ([A-Z]) card", question):
        code = ord(card)
        runs = [(code - 2, code - 1), (code - 1, code + 1), (code + 1, code + 2)]
        chi = any(all(hand[chr(each)] > 0 for each in run) for run in runs)
        result = "Peng" if hand[card] >= 2 else "Chi" if chi else "Pass"
        hand[card] += 1
        hand[gone] -= 1
    return result


def word_sorting(question: str) -> Right:
    found = last(r"sort these words in (ascending|descending) order .*?: (.+)$", question)
    return ", ".join(sorted(found[2].strip().split(", "), reverse=found[1] == "descending"))


def word_sequence_reversal(question: str) -> Right:
    return ", ".join(last(r"list of words: (.+)$", question)[1].strip().split(", ")[::-1])


def group_anagrams(question: str) -> Right:
    words = json.loads(last(r"(\[[^\[\]]*\])\s*$", question)[1])
    groups: dict[str, list[str]] = {}
    for word in words:
        groups.setdefault("".join(sorted(word)), []).append(word)
    wanted = sorted(sorted(group) for group in groups.values())
    return lambda answer: sorted(sorted(group) for group in json.loads(answer)) == wanted


def palindrome_partitioning(question: str) -> Right:
    def partitions(text: str) -> list[list[str]]:
        if not text:
            return [[]]
        heads = [text[:end] for end in range(1, len(text) + 1) if text[:end] == text[:end][::-1]]
        return [[head, *rest] for head in heads for rest in partitions(text[len(head) :])]

    wanted = sorted(partitions(last(r"into palindromes: (\w+)", question)[1]))
    return lambda answer: sorted(json.loads(answer)) == wanted


def number_format(question: str) -> Right:
    found = last(r"pick the (largest|smallest) number .*?: (.+)$", question)
    values = [Decimal(each.replace(",", "")) for each in found[2].split()]
    best = max(values) if found[1] == "largest" else min(values)
    return lambda answer: math.isclose(Decimal(answer.replace(",", "")), best, rel_tol=1e-12)


def complex_arithmetic(question: str) -> Right:
    one, sign, other = last(r"\(([^()]*)\) (.) \(([^()]*)\)", question).groups()
    left, right = (complex(each.replace("i", "j").replace(" ", "")) for each in (one, other))
    work = {"+": complex.__add__, "-": complex.__sub__, "×": complex.__mul__, "÷": complex.__truediv__}
    value = work[sign](left, right)
    return lambda answer: abs(complex(answer.replace("i", "j").replace(" ", "")) - value) < 0.011


def decimal_arithmetic(question: str) -> Right:
    """The library rounds at every step; its last digit may differ from the exact value's."""
    value = arithmetic(last(r"\n(.+?)\s*=\s*\?", question)[1])
    exact = Context(prec=12, rounding=ROUND_HALF_UP).divide(
        Decimal(value.numerator), Decimal(value.denominator)
    )
    return lambda answer: abs(Decimal(answer) - exact) <= abs(exact) * Decimal("1e-10")


def dice(question: str) -> Right:
    found = last(r"these dice: (.+?)\. .*?rolling (\d+) or higher", question)
    ways = Counter({0: 1})
    for count, sides in re.findall(r"(\d+)d(\d+)", found[1]):
        for _ in range(int(count)):
            ways = sum(
                (
                    Counter({total + face: number for total, number in ways.items()})
                    for face in range(1, int(sides) + 1)
                ),
                Counter(),
            )
    hits = sum(number for total, number in ways.items() if total >= int(found[2]))
    return same_number(Fraction(hits, ways.total()))


def coin_flip(question: str) -> Right:
    found = last(r"getting (exactly|at least|at most) (\d+) (?:heads|tails) in (\d+)", question)
    wanted, flips = int(found[2]), int(found[3])
    compare = {"exactly": int.__eq__, "at least": int.__ge__, "at most": int.__le__}[found[1]]
    hits = sum(math.comb(flips, heads) for heads in range(flips + 1) if compare(heads, wanted))
    return lambda answer: math.isclose(float(answer), hits / 2**flips, rel_tol=1e-3)


def caesar_cipher(question: str) -> Right:
    cipher = last(r"cipher text: (.+?)\. Provide", question)[1]

    def right(answer: str) -> bool:
        turns = {(ord(a) - ord(b)) % 26 for a, b in zip(cipher, answer, strict=True) if a.isalpha()}
        return len(turns) == 1 and [a for a in cipher if not a.isalpha()] == [
            b for b in answer if not b.isalpha()
        ]

    return right


def knights_knaves(question: str) -> Right:
    """Only that what each person said of another fits: the words vary, so statements of one fact are checked."""
    good = last(r"inhabited only by (\w+)s and", question)[1]

    def right(answer: str) -> bool:
        said = dict(re.findall(r"(\w+) is an? (\w+)", answer))
        truths = {name: role == good for name, role in said.items()}
        statements = re.findall(r"(?:by|In) (\w+)(?:'s words)?: \"(\w+) is (not )?an? (\w+)\"", question)
        for speaker, name, no, role in statements:
            fact = (said[name] == role) != bool(no)
            if truths[speaker] != fact:
                return False
        return True

    return right


def string_insertion(question: str) -> Right:
    rules = {"ABCD": "A", "BCDE": "B", "CDEA": "C", "DEAB": "D", "EABC": "E"}
    text, done = last(r"pattern: ([A-E]+)", question)[1], ""
    while text:
        if text[:4] in rules:
            done, text = done + text[:4] + rules[text[:4]], text[4:]
        else:
            done, text = done + text[0], text[1:]
    return done


def pool_matrix(question: str) -> Right:
    kind, size = last(r"Perform (\w+) pooling .*?kernel size of (\d+)", question).groups()
    grid, side = grids(question)[-1], int(size)
    if len(grid[0]) < 1:
        return ""
    pooled = []
    for top in range(0, len(grid), side):
        pooled.append([])
        for left in range(0, len(grid[0]), side):
            cells = [int(cell) for row in grid[top : top + side] for cell in row[left : left + side]]
            pooled[-1].append(max(cells) if kind == "max" else sum(cells) / len(cells))
    return lambda answer: all(
        abs(float(cell) - value) < 0.0051
        for line, row in zip(answer.split("\n"), pooled, strict=True)
        for cell, value in zip(line.split(), row, strict=True)
    )


DATE = (
    r"(?P<iso>\d{4}-\d\d-\d\d)(?: \(\w+\))?"
    r"|(?P<american>\d\d/\d\d/\d{4})|(?P<day>\d\d \w+ \d{4})|(?:\w+day, )?(?P<month>[A-Z]\w+ \d\d, \d{4})"
    r"|\w{3} (?P<short>\w{3} \d\d) (?P<year>\d{4})"
)
CLOCK = r"(?P<clock>\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(?: (?P<zone>[+-]\d{4}|UTC))?"
ALONE = CLOCK.replace("P<clock>", "P<alone>").replace("P<zone>", "P<its>")
MOMENT = rf"(?:(?:{DATE})(?:,? (?:at )?{CLOCK})?|{ALONE})"


def time_intervals(question: str) -> Right:
    """In the unit that is asked for, cut off, or rounded as printed."""
    start, end = (_moment(found) for found in re.finditer(MOMENT, question))
    seconds = end - start
    if "D days" not in question and seconds < 0:
        seconds += 86400
    asked = last(r"in (D days, HH:MM:SS|D days, HH:MM|D days|HH:MM:SS\.mmm|HH:MM:SS|HH:MM)\.", question)[1]
    days, rest = divmod(seconds, 86400)
    hours, minutes, left = int(rest // 3600), int(rest % 3600 // 60), rest % 60
    clock = f"{hours:02}:{minutes:02}"
    shown = {
        "D days": f"{days} days", "HH:MM": clock, "HH:MM:SS": f"{clock}:{int(left):02}",
        "HH:MM:SS.mmm": f"{clock}:{int(left):02}.{round(left % 1 * 1000):03}",
    }  # fmt: skip
    return shown[asked] if asked in shown else f"{days} days, {shown[asked.removeprefix('D days, ')]}"


def _moment(found: re.Match[str]) -> Fraction:
    """Seconds since some beginning."""
    day = 0
    for name, form in (
        ("iso", "%Y-%m-%d"),
        ("day", "%d %B %Y"),
        ("month", "%B %d, %Y"),
        ("american", "%m/%d/%Y"),
    ):
        if found[name]:
            day = datetime.datetime.strptime(found[name], form).toordinal()
    if found["short"]:
        day = datetime.datetime.strptime(f"{found['short']} {found['year']}", "%b %d %Y").toordinal()
    clock = found["clock"] or found["alone"] or "00:00"
    parts = [Fraction(part) for part in clock.split(":")]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    zone = found["zone"] or found["its"] or "UTC"
    if zone != "UTC":
        seconds -= int(f"{zone[0]}1") * (int(zone[1:3]) * 3600 + int(zone[3:]) * 60)
    return day * 86400 + seconds


SOLVERS: dict[str, Solver] = {
    "base_conversion": base_conversion,
    "basic_arithmetic": expression,
    "binary_alternation": binary_alternation,
    "binary_matrix": binary_matrix,
    "bitwise_arithmetic": bitwise_arithmetic,
    "caesar_cipher": caesar_cipher,
    "chain_sum": sum_at_the_end,
    "coin_flip": coin_flip,
    "complex_arithmetic": complex_arithmetic,
    "count_bits": count_bits,
    "count_primes": count_primes,
    "course_schedule": course_schedule,
    "decimal_arithmetic": decimal_arithmetic,
    "decimal_chain_sum": sum_at_the_end,
    "dice": dice,
    "fraction_simplification": fraction_simplification,
    "game_of_life": game_of_life,
    "game_of_life_halting": game_of_life_halting,
    "gcd": gcd,
    "group_anagrams": group_anagrams,
    "isomorphic_strings": isomorphic_strings,
    "knights_knaves": knights_knaves,
    "largest_island": largest_island,
    "lcm": lcm,
    "letter_counting": letter_counting,
    "mahjong_puzzle": mahjong_puzzle,
    "maze": maze,
    "mini_sudoku": sudoku,
    "n_queens": n_queens,
    "number_filtering": number_filtering,
    "number_format": number_format,
    "number_sorting": number_sorting,
    "palindrome_partitioning": palindrome_partitioning,
    "pool_matrix": pool_matrix,
    "power_function": power_function,
    "prime_factorization": prime_factorization,
    "products": product,
    "ransom_note": ransom_note,
    "rotate_matrix": rotate_matrix,
    "rotten_oranges": rotten_oranges,
    "shortest_path": shortest_path,
    "simple_equations": simple_equations,
    "spell_backward": spell_backward,
    "spiral_matrix": spiral_matrix,
    "string_insertion": string_insertion,
    "sudoku": sudoku,
    "time_intervals": time_intervals,
    "word_sequence_reversal": word_sequence_reversal,
    "word_sorting": word_sorting,
}


def agrees(task: str, question: str, answer: str) -> bool:
    """Whether `answer` is what the solver finds."""
    right = SOLVERS[task](question)
    return right(answer) if callable(right) else answer.strip() == right
