"""One session of the paper's tables: train the rows that are missing, evaluate test once, write tables and figures.

The machinery is that of a confirmation (tune.search.confirmation.ConfirmJobs on a tune.paper.grid.Grid); all of it can be repeated.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lfvd.data.corpus import Corpus
from tune import session
from tune.analysis.conclusions import evaluation_warnings
from tune.best import evaluate_test
from tune.paper.charts import draw_figures
from tune.paper.grid import Grid
from tune.paper.outcomes import SPLITS, UNDECIDED, Outcomes
from tune.paper.rows import REFERENCE, part_title
from tune.paper.tables import change_text, number, spread, summary, write_tables
from tune.search.confirmation import ConfirmJobs
from tune.session import NothingUsable, SessionOptions
from tune.terminal.tables import print_faults


def run_rows(grid: Grid, corpus: Corpus, console: Console, options: SessionOptions) -> bool:
    """Train, evaluate test, write tables and figures; False if interrupted.

    Raises NothingUsable where no row came through: the text shows the first error.
    """
    with session.session_context(grid, console, options.tracking_uri) as (interrupt, _):
        without_test = corpus.restricted("train", "valid")  # workers get no test split
        jobs = ConfirmJobs(grid, interrupt, grid.numbers)
        if not jobs.exhausted():
            with session.ray_workers(grid, without_test, console, interrupt, options):
                session.run_confirmation(jobs, without_test, console)
        if interrupt():
            return False
        if jobs.errors and not Outcomes(grid).scores:
            raise NothingUsable(f"{grid.folder}: no row came through all seeds; the first error: {jobs.errors[0]}")
        write(grid, corpus)
        return True


def write(grid: Grid, corpus: Corpus) -> None:
    """Open test for the rows that have all their seeds and were not looked at before; write all tables and figures."""
    trained = list(Outcomes(grid).scores)
    if len(corpus.indices("test")):
        evaluate_test(grid, corpus, trained)
    outcomes = Outcomes(grid)
    write_tables(outcomes, draw_figures(outcomes))


def print_tables(grid: Grid, console: Console) -> None:
    """The tables in short, what is left out, and where all of it lies."""
    outcomes = Outcomes(grid)
    console.print(f"\n[bold]{escape(f'{grid.name}: {grid.data.title}')}[/]")
    for part in dict.fromkeys(row.part for row in outcomes.rows if row.part.startswith("table")):
        if part in REFERENCE:
            console.print(_table(outcomes, part))
        console.print(summary(outcomes, part), markup=False)
    for sentence in outcomes.left_out:
        console.print(f"left out: {sentence}", markup=False, soft_wrap=True)
    for warning in evaluation_warnings(grid):
        session.warn(console, warning)
    files = [path for pattern in grid.artifacts for path in sorted(grid.folder.glob(pattern))]
    console.print("written:", *(f"\n  {path}" for path in files), sep="", markup=False, soft_wrap=True)


def _table(outcomes: Outcomes, part: str) -> Table:
    to, split = REFERENCE[part], outcomes.split
    caption = (
        f"{SPLITS[split]} W-F1 %, mean ± standard deviation over {len(outcomes.seeds)} seeds\n"
        f"Δ: minus {to}, with 95 % interval; open: {UNDECIDED} from no change"
    )
    table = Table(box=box.SIMPLE_HEAD, title=part_title(part), title_justify="left", caption=caption, padding=0)
    table.caption_justify = "left"
    table.add_column("row", no_wrap=True)
    for name in ("paper", "ours", "paper Δ", "our Δ"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("agrees")
    for line in outcomes.compared(part):
        cells = [number(line.paper["wf1"]), spread(line, f"{split}/wf1"), number(line.paper_change), change_text(line)]
        table.add_row(escape(line.row.name), *cells, line.agrees.replace(UNDECIDED, "open"))
    return table


def show_progress(grid: Grid, console: Console) -> None:
    """How many runs of each row are done, and what went wrong."""
    done, seeds = grid.confirmed(), grid.plan.confirm.seeds
    console.print(f"\n[bold]{escape(f'{grid.name}: {grid.data.name}')}[/]")
    console.print(f"rows of tables: {len(done)} of {len(grid.numbers) * len(seeds)} runs")
    for n in grid.numbers:
        count = sum(run["trial"] == n for run in done)
        console.print(f"  {count}/{len(seeds)} {grid.name_of(n)}", markup=False)
    print_faults(grid, console)
    console.print(f"test evaluations: {len(grid.test_log.evaluations())}")
