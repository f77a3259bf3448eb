"""The metrics that the code emits, and the tables of docs/metrics.md, which must be the same.

A metric has a name, a kind (counter, gauge, histogram) and the names of its labels. The code is
read for the macros of the `metrics` crate, which name all three in literals; what does not is a
problem, for nobody could hold it to anything. What a process really tells on `/metrics` is held
to the same tables by the tests of monitoring.
"""

import re
from dataclasses import dataclass
from pathlib import Path

MACRO = re.compile(r"\b(counter|gauge|histogram)!\s*([(\[{])")
NAME = re.compile(r'\s*"([a-z][a-z0-9_]*)"\s*(?:,|$)')
OURS = ("cairn_", "process_")
LABEL = re.compile(r'"([a-z][a-z0-9_]*)"\s*=>')
ROW = re.compile(r"^\| (`[^|]*) \| (\w+) \| ([^|]*)\| (.*) \|$")
# A row of a table whose first cell names a metric.
ANY_ROW = re.compile(r"^\| *`(?:cairn|process)_")
QUOTED = re.compile(r"`([^`]*)`")


@dataclass(frozen=True)
class Metric:
    """What is known of a metric besides its name."""

    kind: str
    labels: frozenset[str]

    def __str__(self) -> str:
        return f"a {self.kind} by {', '.join(sorted(self.labels)) or 'nothing'}"


def argument(text: str, start: int) -> str:
    """What stands between the bracket before `start` and its partner."""
    depth = 1
    inside_text = False
    for at in range(start, len(text)):
        letter = text[at]
        if letter == '"' and text[at - 1] != "\\":
            inside_text = not inside_text
        elif not inside_text and letter in "([{":
            depth += 1
        elif not inside_text and letter in ")]}":
            depth -= 1
            if depth == 0:
                return text[start:at]
    return text[start:]


def emitted_by(source: str) -> tuple[dict[str, set[Metric]], list[str]]:
    """The metrics that a source file emits, and what names none in a literal."""
    found: dict[str, set[Metric]] = {}
    unnamed = []
    for macro in MACRO.finditer(source):
        text = argument(source, macro.end())
        name = NAME.match(text)
        if not name:
            unnamed.append(f"{macro[1]}!({' '.join(text.split())[:60]}")
            continue
        # Tests count things of their own.
        if not name[1].startswith(OURS):
            continue
        labels = frozenset(LABEL.findall(text[name.end() :]))
        found.setdefault(name[1], set()).add(Metric(macro[1], labels))
    return found, unnamed


def listed_in(text: str) -> tuple[dict[str, Metric], list[str]]:
    """The metrics of the tables, and the rows that are malformed."""
    listed: dict[str, Metric] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        if not ANY_ROW.match(line):
            continue
        row = ROW.match(line)
        if not row or row[2] not in ("counter", "gauge", "histogram"):
            problems.append(f"line {number} has no kind, or not four cells")
            continue
        metric = Metric(row[2], frozenset(QUOTED.findall(row[3])))
        for name in QUOTED.findall(row[1]):
            if name in listed:
                problems.append(f"line {number} lists {name} once more")
            listed[name] = metric
    return listed, problems


def check(sources: list[Path], table: Path) -> list[str]:
    """What the sources and the tables say differently, in both directions."""
    emitted: dict[str, set[Metric]] = {}
    problems = []
    for path in sources:
        found, unnamed = emitted_by(path.read_text())
        problems += [f"{path}: {what} names its metric by no literal" for what in unnamed]
        for name, kinds in found.items():
            emitted.setdefault(name, set()).update(kinds)
    listed, malformed = listed_in(table.read_text())
    problems += [f"{table.name}: {what}" for what in malformed]
    for name in sorted(emitted.keys() | listed.keys()):
        if name not in listed:
            problems.append(f"{table.name} does not list {name}")
        elif name not in emitted:
            problems.append(f"{table.name} lists {name}, which is not there")
        elif emitted[name] != {listed[name]}:
            told = " and as ".join(sorted(map(str, emitted[name])))
            problems.append(f"{table.name} lists {name} as {listed[name]}; it is emitted as {told}")
    return problems
