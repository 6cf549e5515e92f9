"""Measures all GANs that minigan has, a table at a time: python benchmarks/zoo.py comparison

A table is rows (zoo_rows.py) times data times seeds; each is a run, in a process of its own with one thread. Equal
seconds are counted in updates, so that it does not matter how busy the machine is, and so that each run comes out the
same again, by the same count: first all rows take turns in one process, which says what an update costs each of them;
then each run takes as many as fit into the seconds.

Interrupted, it goes on run by run. Runs of another version, or of other settings, are refused; that code was changed
under the same version is not noticed: remove the folder then. A run that diverges, or that is refused, is counted as
failed; any other error ends its process, and leaves nothing. At the end the table
is a section of docs/results.md, a picture, JSON, and part of docs/zoo.md: `python benchmarks/zoo.py page` writes that
page anew from all tables.
"""

import argparse
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kept import get, put, refuse_other
from options import positive, present
from sections import check_marks, write_section
from tqdm import tqdm
from workers import Worker, WorkerError, environment
from zoo_report import Results, expected, in_words, marks_of, paragraphs, picture, read_tables, write_page
from zoo_rows import BASELINES, FAKES, TABLES, TOYS, rows_of, slug

from minigan import __version__
from minigan.files import named, replace
from minigan.options import OptionError, to_json

WORKER = Path(__file__).with_name("zoo_worker.py")
ROOT = Path(__file__).parent.parent
ONE_THREAD = {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PAGE = "page"


class Images(NamedTuple):
    """Data that runs are trained on: where it is, and its pixels' hash; both None in the plane."""

    source: str | None
    sha256: str | None


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    import machine

    parser = argparse.ArgumentParser(
        description="Train many GANs for equal seconds; write docs/results.md and docs/zoo.md.",
        epilog="Example: python benchmarks/zoo.py comparison --rows gan,wgan-gp --seconds 5 --seeds 1 --docs /tmp",
    )
    parser.add_argument("table", choices=[*TABLES, PAGE], help="page: only write docs/zoo.md anew")
    parser.add_argument("--seconds", type=positive, default=None, help="of training, each run (the table's own)")
    parser.add_argument("--seeds", type=positive, default=None, help="runs of each row (the table's own)")
    parser.add_argument("--rows", default=None, metavar="A,B", help="some of the table's rows (all)")
    parser.add_argument(
        "--jobs", type=positive, default=machine.cores(), help="runs at a time, of one thread each (%(default)s)"
    )
    parser.add_argument("--data", default=None, metavar="SOURCE", help="as of minigan train (MINIGAN_DATA, or MNIST)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/zoo"), metavar="DIR", help="where it goes on from (%(default)s)"
    )
    parser.add_argument(
        "--docs",
        type=Path,
        default=None,
        metavar="DIR",
        help="where docs/ and benchmarks/results/ are (this tree; with --rows, the table is only printed)",
    )
    args = parser.parse_args(words)
    args.writes = args.docs is not None or args.rows is None or args.table == PAGE
    args.docs = args.docs or ROOT
    if args.table == PAGE:
        return args
    table, rows = TABLES[args.table], rows_of(args.table)
    if args.table == TOYS and args.data:
        parser.error("toys: takes no --data: these systems live in the plane")
    args.seconds, args.seeds = args.seconds or table.seconds, args.seeds or table.seeds
    args.chosen = [row.strip() for row in args.rows.split(",")] if args.rows else list(rows)
    unknown = [row for row in args.chosen if row not in rows]
    if unknown:
        parser.error(f"--rows: {args.table} has no row {', '.join(unknown)}; it has {', '.join(rows)}")
    return args


def check_recipes(rows: Sequence[str]) -> None:
    """ValueError that names the rows whose recipe, or one of whose keys, is not here."""
    from minigan.gan.recipes import RECIPES

    trained = [row.split() for row in rows if row not in BASELINES]
    missing = [" ".join(row) for row in trained if row[0] not in RECIPES]
    if missing:
        raise ValueError(f"there is no recipe for {', '.join(missing)}; leave them out by --rows")
    for name, *words in trained:
        try:
            RECIPES[name].parse(words, " ".join([name, *words]))
        except OptionError as error:
            raise ValueError(f"a row is refused: {error}; put it right in benchmarks/zoo_rows.py") from error


# ---- what is kept --------------------------------------------------------------------------------------------------
#
# comparison/table.json         what all runs have in common, the machine, floors, and seconds per update of each row
# comparison/gan-mnist-0.json   a run that is done: its task, its figures, or why it failed
# comparison/gan-mnist-0.png    samples of it


def images_of(args: argparse.Namespace) -> dict[str, Images]:
    """The data that each row is trained on, by name."""
    if args.table == TOYS:
        from minigan.gan.toys import MIXTURES

        return {name: Images(None, None) for name in MIXTURES}
    from minigan.data import load
    from minigan.gan.run import description

    found = {}
    for source in dict.fromkeys((args.data, *TABLES[args.table].more_data)):
        known = description(load(source))
        found[known["name"]] = Images(source, known["sha256"])
    return found


def settings_of(table: str, row: str) -> dict[str, Any]:
    """The settings that a row's recipe has now; {} of a row that is no recipe's."""
    from minigan.gan.recipes import RECIPES

    name, *words = row.split()
    return to_json(RECIPES[name].parse(words, row)) if table != TOYS and name in RECIPES else {}


def agree(args: argparse.Namespace, images: dict[str, Images]) -> dict[str, Any]:
    """table.json, written the first time. ValueError if it is of another table."""
    import machine

    path = args.out / args.table / "table.json"
    own = {
        "table": args.table, "seconds": args.seconds, "fakes": FAKES, "minigan": __version__,
        "images": {name: known.sha256 for name, known in images.items()},
    }  # fmt: skip
    if not path.exists():
        put(path, {**own, "machine": machine.describe(1), "floors": {}, "calibration": {}})
    there = get(path)
    refuse_other(path.parent, there, {**own, **machine.identity(1)})
    return there


def prepare(args: argparse.Namespace, images: dict[str, Images], table: dict[str, Any]) -> None:
    """What must be known before the runs: the floors of all data, and what an update costs each row."""
    path, size = args.out / args.table / "table.json", 28
    for name, known in images.items():
        if args.table != TOYS and name not in table["floors"]:
            print(f"Floors of {name}", flush=True)
            table["floors"][name] = ask(f"floors of {name}", "floor", source=known.source, size=size)
            put(path, table)
    settings = {row: settings_of(args.table, row) for row in {*args.chosen, *table["calibration"]}}
    costs = {row: cost for row, cost in table["calibration"].items() if cost["settings"] == settings[row]}
    missing = [row for row in args.chosen if row not in BASELINES and row not in costs]
    if missing:
        found = calibrated(args.table, missing, costs, next(iter(images.values())).source)
        table["calibration"] |= {row: {**cost, "settings": settings[row]} for row, cost in found.items()}
        put(path, table)


def calibrated(table: str, missing: list[str], known: dict[str, Any], source: str | None) -> dict[str, Any]:
    """What an update costs the missing rows: beside the first known one that can still be timed, else of all anew."""

    def timed(rows: list[str]) -> dict[str, Any]:
        print(f"Seconds per update of {', '.join(rows)}, which take turns", flush=True)
        found: dict[str, Any] = ask("calibration", "calibrate", table=table, rows=rows, source=source)
        return found

    for anchor in (row for row in known if "seconds" in known[row]):
        found = timed([anchor, *missing])
        if "seconds" in found[anchor]:
            return scaled(found, anchor, known)
    return timed([*known, *missing])


def scaled(found: dict[str, Any], anchor: str, known: dict[str, Any]) -> dict[str, Any]:
    """What was found of new rows, as it would have been beside the known ones: `anchor` was timed with both."""
    ratio = known[anchor]["seconds"] / found[anchor]["seconds"]
    return {
        row: {"seconds": ratio * cost["seconds"]} if "seconds" in cost else cost
        for row, cost in found.items()
        if row != anchor
    }


def updates(seconds: float, cost: float) -> int:
    """As many as fit into the seconds, at least one."""
    return max(1, int(seconds / cost))


# ---- runs ----------------------------------------------------------------------------------------------------------


def ask(label: str, job: str, **words: Any) -> Any:
    """The answer of a process of its own."""
    with single_threaded(label, {"job": job, **words}) as worker:
        return worker.answer()


def single_threaded(label: str, task: dict[str, Any]) -> Worker:
    return Worker(label, task, {**environment(None), **ONE_THREAD}, WORKER)


def plan(args: argparse.Namespace, images: dict[str, Images], table: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """The task of each run, by its file: all of a seed, then those of the next."""
    tasks = {}
    for seed in range(args.seeds):
        for name, known in images.items():
            for row in args.chosen:
                cost = table["calibration"].get(row, {})
                steps = updates(args.seconds, cost["seconds"]) if "seconds" in cost else None
                tasks[args.out / args.table / f"{slug(row, Path(name).name, seed)}.json"] = {
                    "table": args.table, "row": row, "data": name, "sha256": known.sha256, "seed": seed,
                    "steps": steps, "fakes": FAKES, "minigan": __version__,
                    "settings": settings_of(args.table, row),
                }  # fmt: skip
    return tasks


def finished(path: Path, task: dict[str, Any]) -> dict[str, Any]:
    """What a run's file holds. ValueError if it is of another run."""
    found = get(path)
    known = {**found["task"]["settings"], **found["task"]}
    for key, value in {**task["settings"], **task}.items():
        there = known.get(key)
        if there != value and key != "settings":  # which are there one by one; steps, seed and data are the task's
            raise ValueError(
                f"{path} is of a run of {key} {there!r}, here it is {value!r}; remove it to have that run, or name "
                "another folder by --out"
            )
    return found


def train(args: argparse.Namespace, images: dict[str, Images], table: dict[str, Any]) -> list[dict[str, Any]]:
    """All runs: those that are done already, and those that are not."""
    tasks = plan(args, images, table)
    due = {}
    for path, task in tasks.items():
        failed = table["calibration"].get(task["row"], {}).get("failed") if task["steps"] is None else None
        if path.exists():
            finished(path, task)
        elif failed is not None:
            put(path, {"task": task, "failed": failed, "seconds": None, "figures": {}})
        else:
            due[path] = {"path": str(path), "source": images[task["data"]].source, "task": task}
    if due:
        work(args.jobs, due)
    return [finished(path, task) for path, task in tasks.items()]


def work(jobs: int, due: dict[Path, dict[str, Any]]) -> None:
    """Has runs done, so many at a time. WorkerError, when all others are done, if processes ended without a result."""
    stopped, workers = threading.Event(), list[Worker]()

    def one(path: Path) -> None:
        with single_threaded(path.stem, {"job": "run", **due[path]}) as worker:
            workers.append(worker)
            if not stopped.is_set():
                worker.answer()

    faults = []
    with stopping(ThreadPoolExecutor(jobs), stopped, workers) as pool:
        for future in tqdm(as_completed([pool.submit(one, path) for path in due]), "runs", len(due), unit="run"):
            if isinstance(error := future.exception(), WorkerError):
                faults.append(str(error))
            elif error is not None:
                raise error
    if faults:
        raise WorkerError("\n".join(faults))


@contextmanager
def stopping(pool: ThreadPoolExecutor, stopped: threading.Event, workers: list[Worker]) -> Iterator[ThreadPoolExecutor]:
    """A pool that ends with the block, and all processes with it."""
    try:
        yield pool
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in list(workers):
            worker.process.kill()
        pool.shutdown()


# ---- all together --------------------------------------------------------------------------------------------------


def command(args: argparse.Namespace) -> str:
    words = ["python benchmarks/zoo.py", args.table, f"--seconds {args.seconds}", f"--seeds {args.seeds}"]
    words += [f'--rows "{args.rows}"' if " " in args.rows else f"--rows {args.rows}"] if args.rows else []
    return " ".join(words + ([f"--data {args.data}"] if args.data else []))


def copy_pictures(args: argparse.Namespace, results: Results) -> None:
    """The samples of each row's first seed, to where docs/zoo.md shows them. Of a run that failed, none stays there."""
    for run in (run for run in results["runs"] if run["task"]["seed"] == 0):
        name = slug(run["task"]["row"], Path(run["task"]["data"]).name)
        source, target = args.out / args.table / f"{name}-0.png", f"docs/images/zoo/{slug(args.table, name)}.png"
        with named(args.docs / target):
            if run["failed"] is None and source.exists():
                (args.docs / target).parent.mkdir(parents=True, exist_ok=True)
                replace(args.docs / target, partial(shutil.copyfile, source))
            else:
                (args.docs / target).unlink(missing_ok=True)


def measure(args: argparse.Namespace) -> None:
    """A table, from its runs to its section."""
    if args.table != TOYS:
        check_recipes(args.chosen)
    results, document = args.docs / f"benchmarks/results/zoo-{args.table}.json", args.docs / "docs/results.md"
    if args.writes:  # what cannot be written at the end, is better known now
        check_marks(document, marks_of(args.table))
        for path in (results, document):
            with named(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
    images = images_of(args)
    table = agree(args, images)
    present(table["machine"])
    prepare(args, images, table)
    runs = train(args, images, table)
    found = {**table, "command": command(args), "seeds": args.seeds, "rows": args.chosen, "runs": runs}
    print(in_words(found))
    if not args.writes:
        print("Some of the rows: only printed; name a folder by --docs to have it written.", file=sys.stderr)
        return
    put(results, found)
    copy_pictures(args, found)
    picture(found, args.docs / f"docs/images/zoo-{args.table}.png")
    write_section(document, marks_of(args.table), paragraphs(found))


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    if args.table != PAGE:
        measure(args)
    if args.writes:
        write_page(args.docs)
        from minigan.gan.recipes import RECIPES

        for name, text in expected(read_tables(args.docs)).items():
            if RECIPES[name].expected != text:
                print(f"the recipe {name} should say that this was measured: {text}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError, WorkerError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
