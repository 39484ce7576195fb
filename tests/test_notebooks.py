"""The notebooks as committed."""

import re
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from notebooks.execute import CHAPTERS, METADATA
from wine_quality.config import ROOT

NOTEBOOKS = [path for chapter in CHAPTERS for path in sorted((ROOT / chapter).glob("*.ipynb"))]
NUMBER = re.compile(r"(?<![\w.,/-])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:\s*%| per cent)?")
SYNTHETIC = re.compile(r"[,;] synthetic$|, which is synthetic,", re.MULTILINE)
WHOLE_NOTEBOOK = ("What you will learn", "What to remember")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose_of(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in code_of(notebook) if tag in cell.metadata.get("tags", [])]


def solutions_of(notebook: NotebookNode) -> list[NotebookNode]:
    return tagged(notebook, "solution")


def texts(cell: NotebookNode) -> Iterator[str]:
    for output in cell.get("outputs", []):
        yield output.get("text") or output.get("data", {}).get("text/plain", "")


def test_the_notebooks_of_all_chapters_are_found():
    assert [f"{path.parent.name}/{path.stem}" for path in NOTEBOOKS] == [
        "notebooks/01-explore-the-data",
        "notebooks/02-train-baselines",
        "notebooks/03-find-the-leak",
        "experiment_tracking/04-track-runs",
        "experiment_tracking/05-tune-with-hyperopt",
        "experiment_tracking/06-register-the-model",
        "orchestration/07-from-notebook-to-flow",
        "deployment/08-serve-the-model",
        "monitoring/09-read-a-drift-report",
        "scaling/10-scale-out",
    ]


@each_notebook
def test_it_was_executed_top_to_bottom_without_errors_or_warnings_and_has_its_figures(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    shown = [output.data for output in outputs if "data" in output]
    assert not [data for data in shown if "<Figure" in data.get("text/plain", "") and "image/png" not in data]


@each_notebook
def test_it_was_executed_on_the_real_data(path):
    printed = [text for cell in code_of(read(path)) for text in texts(cell)]
    assert [text for text in printed if re.search(r"[,;] real$|^the real Kaggle pair", text, re.M)]
    assert not [text for text in printed if SYNTHETIC.search(text)]


@each_notebook
def test_it_contains_nothing_specific_to_a_machine(path):
    notebook = read(path)
    assert notebook.metadata == METADATA
    assert {key for cell in notebook.cells for key in cell.metadata} <= {"jupyter", "tags"}
    places = [str(place) for place in (ROOT, ROOT.parent, Path.home(), tempfile.gettempdir()) if place != Path("/")]
    text = path.read_text()
    assert not [place for place in places if f"{place}/" in text]
    assert " at 0x" not in text


@each_notebook
def test_it_opens_with_what_you_will_learn_ends_with_what_to_remember_and_the_next_link_and_its_links_resolve(path):
    first, *_, last = read(path).cells
    assert first.source.startswith(f"# {int(path.stem[:2])}. ")
    assert re.search(r"\*\*What you will learn\*\*\n\n- ", first.source)
    assert last.source.startswith("## What to remember\n\n- ")
    assert re.search(r"\n\nNext: .*\[.+\]\(.+\)", last.source)
    links = re.findall(r"\]\((?!http)([^)#]+)", prose_of(read(path)))
    assert links
    assert not [link for link in links if not (path.parent / link).exists()]


@each_notebook
def test_cells_are_short_and_prose_outweighs_code(path):
    notebook = read(path)
    assert not [cell.source for cell in code_of(notebook) if len(cell.source.splitlines()) > 10]
    seen = [cell.source for cell in code_of(notebook) if cell not in solutions_of(notebook)]
    code = [line for source in seen for line in source.splitlines() if not line.startswith(("import ", "from "))]
    assert len(prose_of(notebook).split()) >= 3 * len(" ".join(code).split())


@each_notebook
def test_exercises_have_an_answer_cell_and_a_folded_solution_that_checks_it(path):
    notebook = read(path)
    solutions = solutions_of(notebook)
    assert 2 <= len(solutions) <= 3
    for number, solution in enumerate(solutions, 1):
        answer = code_of(notebook)[solution.execution_count - 2]
        assert answer.source.startswith(f"answer_{number} = None  # ")
        assert solution.metadata["jupyter"] == {"source_hidden": True}
        assert f"solution_{number} = " in solution.source
        check = rf"^check_(answer|function)\(answer_{number}, solution_{number}, .+\)$"
        checked = re.search(check, solution.source, re.M)
        assert checked
        within = re.search(r", within=([\d.]+)\)$", checked[0])
        if re.search(r"# (a|the exact) (number|share) ", answer.source):
            assert within is None or answer.source.endswith(f", right to within {within[1]}")
            assert ("# the exact number of " in answer.source) == (within is None)
        assert list(texts(solution)) == ["no answer yet\n"]


def unsupported(notebook: NotebookNode) -> list[str]:
    """Return the numbers in the prose that no code or output supports.

    A number in prose must occur in the code or output of its section, rounded to the prose's precision, or earlier in
    the prose. The opening and the summary may use numbers from the whole notebook.
    """
    starts = [0, *(at for at, cell in enumerate(notebook.cells) if at and cell.source.startswith("## "))]
    sections = [notebook.cells[start:end] for start, end in pairwise([*starts, None])]
    wrong, said = [], set()
    for section in sections:
        prose = "\n\n".join(cell.source for cell in section if cell.cell_type == "markdown")
        everywhere = any(title in prose for title in WHOLE_NOTEBOOK)
        shown = produced(notebook.cells if everywhere else section)
        numbers = {number.strip() for number in NUMBER.findall(plain(prose))}
        wrong += sorted(number for number in numbers - said if not occurs(number, shown))
        said |= numbers
    return wrong


def plain(prose: str) -> str:
    """Remove block quotes, code, links, and the numbers of headings, lists and exercises from prose."""
    for noise in (r"^>.*$", r"`[^`]*`", r"\]\([^)]*\)", r"<[^>]*>", r"^#+ \d+\.", r"^\d+\. ", r"^\*\*\d+\.\*\*"):
        prose = re.sub(noise, " ", prose, flags=re.MULTILINE)
    return re.sub(r"\[\d+\. |[Cc]hapter \d+|95 %\s+interval", " ", prose)


def produced(cells: list[NotebookNode]) -> list[float]:
    shown = [text for cell in cells if cell.cell_type == "code" for text in (cell.source, *texts(cell))]
    return [value(number) for text in shown for number in NUMBER.findall(text)]


def value(number: str) -> float:
    return float(re.sub(r"[\s,%]|per cent", "", number).replace("−", "-"))


def occurs(stated: str, shown: list[float]) -> bool:
    percent = stated.endswith(("%", "cent"))
    decimals = len(re.sub(r"[^\d.]", "", stated).partition(".")[2])
    near = 0.5 * 10**-decimals * (1 + 1e-9) if decimals or percent else 0
    exact = value(stated)
    return any(abs(number - exact) <= near or (percent and abs(100 * number - exact) <= near) for number in shown)


@each_notebook
def test_every_number_in_the_prose_occurs_in_code_or_output(path):
    assert unsupported(read(path)) == []


def output(text: str) -> NotebookNode:
    """Return a code cell with a text as its output."""
    return nbformat.v4.new_code_cell("show()", outputs=[nbformat.v4.new_output("stream", text=text)])


@pytest.mark.parametrize(
    ("prose", "wrong"),
    [
        ("In all 6,497 rows, 24.6 % of them red, a gap of 0.24.", []),
        ("A correlation of −0.31, `0.77` in code.\n\n> Cortez (2009): 62.4 %", []),
        ("In all 6,498 rows, a gap of 0.27, 25.6 % red, 0.31 with density.", ["0.27", "0.31", "25.6 %", "6,498"]),
    ],
)
def test_an_unsupported_number_in_the_prose_is_found(prose, wrong):
    shown = output("6,497 rows: 0.2461 red, gap 0.2419, density -0.3061")
    assert unsupported(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), shown])) == wrong


def test_a_number_in_another_section_does_not_count():
    two = nbformat.v4.new_markdown_cell("## Two\n\nIt is 0.41.")
    assert unsupported(nbformat.v4.new_notebook(cells=[output("0.41"), two])) == ["0.41"]
