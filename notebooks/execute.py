"""Execute the notebooks in order, on the dataset that `WINE_DATA` names: `make notebooks`.

A notebook is written back only if every cell runs without an error and writes nothing to stderr. Machine-specific
metadata is removed, so the same code and the same dataset give the same bytes.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # noqa: F401  (builds the font cache here; in a notebook that would be reported on stderr)
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm
from traitlets.config import Config

from wine_quality.command import exit_code
from wine_quality.config import ROOT, settings
from wine_quality.errors import NotebookError
from wine_quality.files import atomic_write

CHAPTERS = ("notebooks", "experiment_tracking", "orchestration", "deployment", "monitoring", "scaling")
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar, useless in a stored notebook
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook: NotebookNode, path: Path) -> None:
    """Run all cells of a notebook in a fresh kernel, in the notebook's folder, and store their outputs in the notebook.

    Raises `NotebookError` if a cell fails or writes to stderr, or if the kernel dies.
    """

    def failure(cell: int, what: str) -> NotebookError:
        place = f"{path.name}, cell [{cell}]"
        return NotebookError(f"{place}: {what}. The notebook file is unchanged; fix the cause and run again.")

    started, on_interrupt = [], signal.getsignal(signal.SIGINT)
    log = settings().local / "notebooks.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(notebook.cells), desc=path.stem, unit="cell", leave=False, disable=None)
    with log.open("w") as last_words, bar:
        client = NotebookClient(
            notebook,
            timeout=None,
            record_timing=False,
            coalesce_streams=True,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
            resources={"metadata": {"path": str(path.parent)}},
            on_notebook_start=lambda notebook: restore_interrupts(on_interrupt),
            on_cell_execute=lambda cell, cell_index: started.append(cell),
            on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n),
        )
        try:
            client.execute(stderr=last_words)
        except CellExecutionError as error:
            raise failure(len(started), f"{error.ename}: {error.evalue}") from error
        except DeadKernelError as error:
            raise failure(len(started), f"the kernel died, perhaps because it ran out of memory; see {log}") from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    raise failure(cell.execution_count, f"a warning: {output.text.strip()}")
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata = nbformat.from_dict(METADATA)


def restore_interrupts(handler: Any) -> None:
    """Let Ctrl-C stop this program again: nbclient's handler only stops the kernel, which then seems to have died."""
    asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
    signal.signal(signal.SIGINT, handler)


def all_notebooks() -> list[Path]:
    """Return the notebooks of all chapters in reading order."""
    return [path for chapter in CHAPTERS for path in sorted((ROOT / chapter).glob("*.ipynb"))]


def run() -> None:
    """Execute the notebooks named on the command line, by default all, and write each back when it has run."""
    for path in [Path(name).resolve() for name in sys.argv[1:]] or all_notebooks():
        started = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        execute(notebook, path)
        with atomic_write(path) as part:
            nbformat.write(notebook, part)
        print(f"{path.stem:<25} {len(notebook.cells)} cells, {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(run))
