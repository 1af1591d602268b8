"""`esscher score`: what models say of every completion token of a file."""

from __future__ import annotations

import time
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from esscher.cli.allocator import keep_freed_memory
from esscher.cli.options import MODEL_HELP, Device, Dtype, IgnoredMasks, Precision, Renames, Tool, renames_of
from esscher.cli.output import console, errors, show_progress
from esscher.cli.text_reading import Tokenizer, load_retokeniser
from esscher.wire.addresses import check_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

    from esscher import offline
    from esscher.lm.transformers import TransformersLM

# Seconds that each part of what a server is asked may take: a large one on a CPU, or while it restarts.
SERVER_TIMEOUT = 600.0


class Column(StrEnum):
    """What `score` adds; an enumeration, since an option that is given several times takes no `Literal`."""

    prior_logprobs = "prior_logprobs"
    policy_logprobs = "policy_logprobs"
    token_kl = "token_kl"
    policy_entropy = "policy_entropy"
    rewards = "rewards"
    cross_log_probs = "cross_log_probs"


def score(
    file: Annotated[Path, typer.Argument(help="Samples, .parquet or .jsonl.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the samples with the new columns.")],
    prior: Annotated[str | None, typer.Option(metavar="MODEL", help=f"The prior. {MODEL_HELP}")] = None,
    policy: Annotated[str | None, typer.Option(metavar="MODEL", help="The policy, as for the prior.")] = None,
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ask a running server, instead of models here.")
    ] = None,
    column: Annotated[
        list[Column] | None,
        typer.Option(
            help="A column to add; may be given several times.  [default: log-probs, and given both models also "
            "token_kl and policy_entropy; of a server prior_logprobs]"
        ),
    ] = None,
    cross_prompts: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Also add cross_log_probs: what the policy says of each completion after so many other prompts of its "
            "block, which shows whether it heeds its prompt.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace columns that the file has.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what a stopped run has finished.")] = False,
    block: Annotated[int, typer.Option(help="Rows that are scored, kept and resumed together.", min=1)] = 512,
    tokenizer: Tokenizer = None,
    tool: Tool = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
    device: Device = None,
    dtype: Precision = "float32",
) -> None:
    """Add what models say of every completion token to a file of samples of any size.

    Rows keep their order, other columns stay as they are, and the output appears only when it is whole. What is
    finished is kept beside it, in OUTPUT.parts: after a stop of any kind, the same command goes on from there, to the
    same bytes as without the stop. Only with a server the last bits of numbers may differ: it scores together what
    several callers send.
    """
    from esscher import offline

    chosen, kept = _columns_to_fill(column, prior, policy, server, cross_prompts), offline.parts_folder(output)
    with show_progress() as progress, _saying_how_to_go_on(kept):
        task = progress.add_task("reading", total=None)
        plan = offline.make_plan(
            file,
            output,
            chosen,
            renames=renames_of(columns),
            block=block,
            overwrite=overwrite,
            ignore_masks=ignore_mask or (),
            tool=tool,
            texts=load_retokeniser(tokenizer) if tokenizer else None,
        )

        def tell(text: str) -> None:
            progress.update(task, description=text)

        models = (
            _served(server, chosen)
            if server
            else _loaded(prior, policy, chosen, device, dtype, cross_prompts or 0, tell)
        )
        with models as scorer:
            offline.score_file(plan, scorer, restart=restart, notify=_show_pace(progress, task, plan, kept))
            by = f"the models of {server}" if server else " and ".join(limits.name for limits in scorer.limits)
    for reason, count in plan.rows.left_out.items():
        errors.print(f"left out: {count:,} {reason}", highlight=False, soft_wrap=True)
    console.print(f"{output}: {', '.join(chosen)} of {plan.rows.count:,} completions under {by}", soft_wrap=True)


def _columns_to_fill(
    asked: list[Column] | None, prior: str | None, policy: str | None, server: str | None, cross_prompts: int | None
) -> tuple[str, ...]:
    from esscher import offline

    given = tuple(dict.fromkeys(column.value for column in asked or () if column is not Column.cross_log_probs))
    if cross_prompts is None and Column.cross_log_probs in (asked or ()):
        raise ValueError(f"--column {offline.CROSS}: say under how many other prompts, --cross-prompts K")
    if cross_prompts is not None and policy is None:
        raise ValueError(
            "--cross-prompts is of a policy: say --policy MODEL; of a prior's own samples that is the prior"
        )
    if server is not None:
        if prior is not None or policy is not None:
            raise ValueError("--server has models of its own: give it alone, or --prior and --policy")
        check_address(server)
        return given or ("prior_logprobs",)
    if prior is None and policy is None:
        raise ValueError("no model is given: say --prior MODEL, --policy MODEL or both, or --server HOST:PORT")
    there = offline.columns_of(prior=prior is not None, policy=policy is not None)
    missing = [name for name in given if name not in there]
    if missing:
        raise ValueError(f"--column {missing[0]}: the models given fill {', '.join(there)}")
    columns = given or (there if prior is not None else ("policy_logprobs",))
    if cross_prompts is None:
        return columns
    return (offline.CROSS,) if asked and not given else (*columns, offline.CROSS)


@contextmanager
def _served(server: str, columns: tuple[str, ...]) -> Iterator[offline.Scorer]:
    from esscher import offline
    from esscher.client import Client

    with Client(server, timeout=SERVER_TIMEOUT) as client:
        yield offline.Server(client, columns)


@contextmanager
def _loaded(
    prior: str | None,
    policy: str | None,
    columns: tuple[str, ...],
    device: str | None,
    dtype: Dtype,
    cross_prompts: int,
    notify: Callable[[str], None],
) -> Iterator[offline.Scorer]:
    from esscher import offline
    from esscher.lm.packaged import resolve
    from esscher.lm.pair import load_lm

    keep_freed_memory()
    loaded: dict[str, TransformersLM] = {}
    identity: dict[str, object] = {"dtype": dtype, "torch": version("torch"), "transformers": version("transformers")}
    for role, model in (("prior", prior), ("policy", policy)):
        if model is not None:
            notify(f"loading {model}")
            loaded[role] = load_lm(model, device, dtype, notify, prior=loaded.get("prior"))
            identity[role] = offline.model_fingerprint(model, resolve(model))
            identity |= {"device": loaded[role].device, "threads": loaded[role].threads}
    yield offline.LocalModels(loaded.get("prior"), loaded.get("policy"), columns, identity, cross_prompts)


def _show_pace(progress: Progress, task: TaskID, plan: offline.Plan, kept: Path) -> Callable[[offline.Progress], None]:
    """Show how far `score` is, and how fast."""
    began = time.monotonic()

    def show(done: offline.Progress) -> None:
        nonlocal began
        if done.step == "resuming":
            errors.print(f"going on after {done.rows:,} of {plan.rows.count:,} rows, kept in {kept}", soft_wrap=True)
        if done.step == "checking":
            began = time.monotonic()
        pace = f", {done.tokens / (time.monotonic() - began):,.0f} tokens/s" if done.tokens else ""
        progress.update(task, description=f"{done.step}{pace}", completed=done.rows, total=plan.rows.count)

    return show


@contextmanager
def _saying_how_to_go_on(kept: Path) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise  # which the same command would meet again
    except BaseException:
        if kept.exists():
            errors.print(
                f"what is finished is kept in {escape(str(kept))}: run the same command again to go on", soft_wrap=True
            )
        raise
