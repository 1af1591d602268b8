"""Score a file block by block, each by itself and once, and put it together when all are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from esscher import __version__, files
from esscher.offline.cross_checks import check_cross_prompts
from esscher.offline.fingerprints import file_fingerprint
from esscher.offline.finished_parts import open_parts
from esscher.offline.plan import check_rows, check_written
from esscher.offline.scorers import CROSS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esscher.offline.finished_parts import Parts
    from esscher.offline.plan import Plan
    from esscher.offline.scorers import Scorer
    from esscher.samples import Samples


class Progress(NamedTuple):
    """How far a run is.

    Attributes
    ----------
    step
        What is being done: "resuming" (once, if an earlier run is gone on with), "checking", "scoring" or "writing".
    rows
        Of how many rows that is done, those of earlier runs included.
    tokens
        How many completion tokens this run has scored.
    """

    step: str
    rows: int
    tokens: int


Notify = Callable[[Progress], object]


def score_file(plan: Plan, scorer: Scorer, *, restart: bool = False, notify: Notify = lambda _: None) -> None:
    """Write the file with new columns: rows keep their order, and other columns stay as they are.

    Finished blocks are kept in the folder that `parts_folder` names. A run that was stopped, in whatever way, goes on
    after them when it is called again, and the output appears only when it is whole. Blocks depend on the file alone,
    and a block's numbers on the block, so the output has the same bytes however often that happened, as long as the
    scorer gives equal numbers for equal blocks: models in one process on one device do, a server that merges calls
    of several clients may differ in the last bits.

    Parameters
    ----------
    plan
        What to do.
    scorer
        What fills the columns.
    restart
        Whether to discard the finished blocks of an earlier run.
    notify
        Called with how far the run is, after each block.

    Raises
    ------
    ValueError
        If the folder holds blocks of a run that differs from this one, another process is at work there, a row cannot
        be scored or written (known before any is scored), or the file has changed meanwhile.
    OSError
        If something cannot be written; finished blocks are kept.
    """
    run = _run(plan, scorer)
    with open_parts(plan.output) as parts:
        if restart:
            parts.discard()
        elif parts.settle(run):
            return
        check_written(plan)
        parts.check_same(run)
        _check_unchanged(plan)
        if parts.is_begun:
            notify(Progress("resuming", min(parts.count() * plan.block, plan.rows.count), 0))
        else:
            check_rows(plan, scorer.limits, lambda rows: notify(Progress("checking", rows, 0)))
            if CROSS in plan.columns:
                check_cross_prompts(plan, scorer.limits[-1], scorer.cross_prompts)  # the policy's come last
            parts.begin(run)
        _score_blocks(plan, scorer, parts, notify)
        files.write_blocks(_whole(plan, parts, notify), parts.whole)
        _check_unchanged(plan)
        parts.finish(_run_afterwards(plan, run, parts))


def _run(plan: Plan, scorer: Scorer) -> dict[str, Any]:
    """Return what the output's bytes depend on, as JSON holds it."""
    return {
        "esscher": __version__,
        "input": plan.fingerprint,
        "names": plan.names,
        "columns": list(plan.columns),
        "block": plan.block,
        "texts": None if plan.rows.texts is None else plan.rows.texts.name,
        **scorer.identity,
    }


def _run_afterwards(plan: Plan, run: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """Return what the same command will be when the output is in its place, which may be the input's."""
    is_in_place = plan.output.resolve() == plan.rows.path.resolve()
    return {**run, "input": file_fingerprint(parts.whole)} if is_in_place else run


def _check_unchanged(plan: Plan) -> None:
    if file_fingerprint(plan.rows.path) != plan.fingerprint:
        raise ValueError(f"{plan.rows.path} was changed after this run had begun: start again with --restart")


def _score_blocks(plan: Plan, scorer: Scorer, parts: Parts, notify: Notify) -> None:
    tokens = 0
    blocks = files.read_blocks(plan.rows, plan.block, files.token_columns(plan.names))
    for index, block in enumerate(blocks):
        if not parts.has(index):
            rows = files.completions(block, plan.names)
            samples, order = files.grouped(rows)
            parts.add(index, files.to_columns(_filled(plan, scorer, block, samples), order, plan.written))
            tokens += int(samples.actions.lengths.sum())
        notify(Progress("scoring", block.first + len(block.table), tokens))


def _filled(plan: Plan, scorer: Scorer, block: files.Block, samples: Samples) -> Samples:
    try:
        return scorer.fill(samples)
    except (ValueError, FloatingPointError) as error:
        last = block.first + len(block.table) - 1
        raise ValueError(f"{plan.rows.path}, rows {block.first} to {last}, put together by prompt: {error}") from error


def _whole(plan: Plan, parts: Parts, notify: Notify) -> Iterator[Any]:
    for index, block in enumerate(files.read_blocks(plan.rows, plan.block)):
        yield files.with_columns(block.table, parts.load(index))
        notify(Progress("writing", block.first + len(block.table), 0))
