"""The command line: demo, serve, score, evaluate, prototype, compare, mismatch, train."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from esscher import files, offline
from esscher.allocator import keep_freed_memory
from esscher.atomic import check_place
from esscher.cli.shared import MODEL_HELP, Device, Dtype, Model, Precision, console, errors, show_progress
from esscher.cli.train import INTERRUPTED, train
from esscher.compare import compare as compare_policies
from esscher.evaluate import evaluate as evaluate_samples
from esscher.mismatch import mismatch as compare_engines
from esscher.prototype import prototype as prototype_targets
from esscher.report import print_report, to_json, write_page
from esscher.report.comparison import comparison_to_json, print_comparison
from esscher.report.mismatch import mismatch_to_json, print_mismatch
from esscher.report.mismatch_page import write_mismatch_page
from esscher.report.prototype import (
    check_picture,
    print_prototype,
    prototype_to_json,
    write_picture,
)
from esscher.report.prototype_page import write_prototype_page
from esscher.target import Condition, Tilt
from esscher.wire.addresses import check_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.progress import Progress, TaskID

    from esscher.demo import Example
    from esscher.evaluate import Report
    from esscher.lm.transformers import TransformersLM
    from esscher.target import Target

app = typer.Typer(
    help="Score and evaluate KL-regularised fine-tuning of language models, seen as Bayesian inference.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

BAD_INPUT, NO_SERVER = 2, 3
DEFAULT_WAITING = 2**20
# Seconds that each part of what a server is asked may take: a large one on a CPU, or while it restarts.
SERVER_TIMEOUT = 600.0
# What commands look at beside tokens; what else a file has is not read.
PROTOTYPE_COLUMNS = ("reward", "prior_logprobs")
COMPARE_COLUMNS = (*PROTOTYPE_COLUMNS, "policy_logprobs", "token_kl")

app.command()(train)

MASK_HELP = "A mask such as *loss_mask* that is ignored: all tokens and rows count. May be given several times."
COLUMNS_HELP = "What a column is called in the file, as *ours=theirs*; may be given several times."


class Column(StrEnum):
    """What `score` adds."""

    prior_logprobs = "prior_logprobs"
    policy_logprobs = "policy_logprobs"
    token_kl = "token_kl"
    policy_entropy = "policy_entropy"
    reward = "reward"


class Source(StrEnum):
    """Where completions came from."""

    policy = "policy"
    prior = "prior"


Renames = Annotated[list[str] | None, typer.Option("--columns", metavar="OURS=THEIRS", help=COLUMNS_HELP)]
IgnoredMasks = Annotated[
    list[str] | None,
    typer.Option("--ignore-mask", metavar="NAME", help=MASK_HELP),
]


@app.command()
def demo(
    model: Model = "smollm2",
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("out/demo.html"),
    beta: Annotated[float, typer.Option(help="Strength of the KL penalty, in reward per nat.")] = 0.25,
    completions: Annotated[int, typer.Option(help="Completions of each prompt.", min=2)] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
) -> None:
    """Do the whole job once: serve a real language model, sample, score, evaluate, show.

    A server holds the model as prior. The trainer's part is played by the same model under a hidden instruction, a
    policy with exact log-probs; its completions get a sentiment reward and are scored and evaluated over gRPC.
    """
    from esscher.demo import Demo, compare, examples, run_demo

    output.parent.mkdir(parents=True, exist_ok=True)
    check_place(output)
    with show_progress(counted=False) as progress:
        task = progress.add_task("starting", total=None)
        result = run_demo(
            Demo(model=model, beta=beta, completions=completions, seed=seed),
            progress=lambda text: progress.update(task, description=text),
        )
    _show_examples(examples(result))
    _show(result.report, json=False, html=None, decode=result.decode, title="")
    console.print(compare(result), highlight=False)
    write_page(result.report, output, decode=result.decode, title=f"Esscher demo: {model}")
    console.print(f"\nPage: {output.resolve()}", soft_wrap=True)


@app.command()
def serve(
    prior: Annotated[str, typer.Option(help=f"The model before fine-tuning. {MODEL_HELP}")],
    policy: Annotated[str | None, typer.Option(help="The model that is trained or judged.")] = None,
    policy_dir: Annotated[
        Path | None,
        typer.Option(help="Where a trainer saves checkpoints: each new one becomes the policy once it is whole."),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION|MODEL",
            help="A function of *prompts* and *completions*, lists of texts, or a sequence-classification model.",
        ),
    ] = None,
    reward_label: Annotated[
        str | None, typer.Option(help="The label whose log-probability is the reward, where the model has several.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)] = 50051,
    metrics_port: Annotated[
        int | None, typer.Option(help="Also serve metrics for Prometheus at this port.", min=0, max=65535)
    ] = None,
    max_batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens per call of the models, prompts counted once.  [default: 4096, on a GPU 65536]", min=1
        ),
    ] = None,
    max_waiting_tokens: Annotated[
        int, typer.Option(help="Tokens that may wait; beyond them calls are refused.", min=1)
    ] = DEFAULT_WAITING,
    max_message_mib: Annotated[int, typer.Option(help="The largest request.", min=1, max=2047)] = 64,
    device: Device = None,
    dtype: Precision = Dtype.float32,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow addresses that other machines reach, unencrypted.")
    ] = False,
) -> None:
    """Serve models over gRPC, until SIGTERM or Ctrl-C; calls in flight are finished.

    With a prior, callers get its log-probs of their completions; with a policy too, its log-probs, its entropy and the
    exact KL between the two, token by token; with a reward, rewards.
    """
    from esscher.server.following import follow_checkpoints
    from esscher.server.loading import Sources, load_models
    from esscher.server.servicer import Limits
    from esscher.server.serving import check_host
    from esscher.server.serving import serve as serve_models

    check_host(host, insecure=insecure)
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sources = Sources(prior, policy, policy_dir, reward, reward_label, device, dtype.value)
    models, checkpoint, load_policy, batch_tokens = load_models(sources, notify=logging.info)
    new_policies = None if policy_dir is None else follow_checkpoints(policy_dir, load_policy, loaded=checkpoint)
    ready = f"serving {', '.join(models.names)} at"
    serving = serve_models(
        models,
        host,
        port,
        limits=Limits(max_message_mib * 2**20, max_batch_tokens or batch_tokens, max_waiting_tokens),
        insecure=insecure,
        new_policies=new_policies,
        metrics_port=metrics_port,
        on_ready=lambda address: print(ready, address, flush=True),
    )
    # The server lets go of a policy that is replaced.
    del models
    asyncio.run(serving)
    _leave_stuck_threads()


@app.command()
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace columns that the file has.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what a stopped run has finished.")] = False,
    block: Annotated[int, typer.Option(help="Rows that are scored, kept and resumed together.", min=1)] = 512,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
    device: Device = None,
    dtype: Precision = Dtype.float32,
) -> None:
    """Add what models say of every completion token to a file of samples of any size.

    Rows keep their order, other columns stay as they are, and the output appears only when it is whole. What is
    finished is kept beside it, in OUTPUT.parts: after a stop of any kind, the same command goes on from there, to the
    same bytes as without the stop. Only with a server the last bits of numbers may differ: it scores together what
    several callers send.
    """
    chosen = _chosen(column, prior, policy, server)
    with show_progress() as progress, _saying_how_to_go_on(output):
        task = progress.add_task("reading", total=None)
        plan = offline.make_plan(
            file,
            output,
            chosen,
            renames=_renames(columns),
            block=block,
            overwrite=overwrite,
            ignore_masks=ignore_mask or (),
        )

        def tell(text: str) -> None:
            progress.update(task, description=text)

        models = _served(server, chosen) if server else _models(prior, policy, chosen, device, dtype, tell)
        with models as scorer:
            offline.score_file(plan, scorer, restart=restart, notify=_show_pace(progress, task, plan))
            by = f"the models of {server}" if server else " and ".join(limits.name for limits in scorer.limits)
    console.print(f"{output}: {', '.join(chosen)} of {plan.rows.count:,} completions under {by}", soft_wrap=True)


@app.command()
def evaluate(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Samples, .parquet or .jsonl.")],
    beta: Annotated[float | None, typer.Option(help="Target prior·exp(reward/beta)/Z.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Target: the prior given reward ≥ threshold.")] = None,
    proposal: Annotated[Source, typer.Option(help="Where the completions came from.")] = Source.policy,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write the report as a page.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help=f"Show n-grams as text. {MODEL_HELP}")] = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """Report what files of samples say of a policy: reward, KL, diversity, and its distance from a target."""
    target = _target(beta, threshold)
    _check_page(html, paths)
    decode = _decoder(tokenizer) if tokenizer else None
    with show_progress() as progress:
        task = progress.add_task("reading", total=len(paths))
        dump = files.read(
            paths,
            columns=_renames(columns),
            ignore_masks=ignore_mask or (),
            progress=lambda path: progress.update(task, advance=1, description=f"reading {path}"),
        )
        progress.update(task, description=f"evaluating {dump.samples}", total=None)
        report = files.naming(paths, partial(evaluate_samples, dump.samples, target, proposal=proposal.value))
    report = replace(report, warnings=(*dump.warnings, *report.warnings))
    _show(report, json=json, html=html, decode=decode, title=_title(paths))


@app.command()
def prototype(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Samples of the prior, .parquet or .jsonl.")],
    beta: Annotated[
        list[float] | None, typer.Option(help="A beta to look at; may be given several times.  [default: 64 of them]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write them as a page.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw the frontier, .svg or .png.")] = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """See what fine-tuning could reach, before any training: the best reward at each KL, from the prior's samples.

    The files hold completions of the prior with their rewards, several a prompt; with prior_logprobs the KL of
    best-of-n is known more closely than by its bound.
    """
    _check_outputs(html, picture, paths)
    for one in beta or ():
        Tilt(one)  # raises what is wrong with it
    with show_progress(counted=False) as progress:
        task = progress.add_task("reading", total=None)
        dump = files.read(paths, columns=_renames(columns), optional=PROTOTYPE_COLUMNS, ignore_masks=ignore_mask or ())
        progress.update(task, description=f"weighing {dump.samples}")
        found = files.naming(paths, prototype_targets, dump.samples, beta)
    found = replace(found, warnings=(*dump.warnings, *found.warnings))
    if html is not None:
        write_prototype_page(found, html, title=f"What could a policy reach? {_title(paths)}")
    if picture is not None:
        write_picture(found, picture)
    if json:
        print(prototype_to_json(found))
    else:
        print_prototype(found, console)
        _say_where(html, picture)


@app.command()
def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Samples of policies, a file each.")],
    prior: Annotated[Path, typer.Option(help="Samples of the prior with rewards, .parquet or .jsonl.")],
    beta: Annotated[
        float | None, typer.Option(help="The target of gap and excess.  [default: that of each policy's KL]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write them as a page.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the frontier with the policies, .svg or .png.")
    ] = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """Put trained policies beside the frontier: what they got of what their KL could buy, and what they left undone.

    Each file holds completions of one policy with rewards, policy_logprobs and prior_logprobs, and names it.
    """
    _check_outputs(html, picture, [prior, *paths])
    if prior.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"{prior} is given as the prior and as a policy: a policy's completions are its own")
    names = [path.stem for path in paths]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two files are called {twice[0]}: a file's name is its policy's, rename one")
    with show_progress(counted=False) as progress:
        task = progress.add_task("reading", total=None)
        renames = _renames(columns)
        ignored = ignore_mask or ()
        read = {
            path: files.read(path, columns=renames, optional=COMPARE_COLUMNS, ignore_masks=ignored) for path in paths
        }
        if renames:
            # Of the prior's file less is needed, and it may have been written by another program.
            there = files.scan(prior).schema.names
            renames = {ours: theirs for ours, theirs in renames.items() if theirs in there}
        read[prior] = files.read(prior, columns=renames, optional=COMPARE_COLUMNS, ignore_masks=ignored)
        progress.update(task, description="comparing")
        found = compare_policies(read[prior].samples, {path.stem: read[path].samples for path in paths}, beta)
    mixed = (f"{path.stem}: {text}" for path, dump in read.items() for text in dump.warnings)
    found = replace(found, warnings=(*mixed, *found.warnings))
    whole = replace(found.prototype, warnings=found.warnings)
    if html is not None:
        write_prototype_page(whole, html, title=f"How good could they be? {_title(paths)}", policies=found.policies)
    if picture is not None:
        write_picture(whole, picture, found.policies)
    if json:
        print(comparison_to_json(found))
    else:
        print_comparison(found, console)
        _say_where(html, picture)


@app.command()
def mismatch(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Completions, .parquet or .jsonl.")],
    train: Annotated[str | None, typer.Option(help="Column of the trainer's log-probs.  [policy_logprobs]")] = None,
    rollout: Annotated[str | None, typer.Option(help="Column of the sampler's.  [rollout_logprobs]")] = None,
    mask: Annotated[
        str | None, typer.Option(help="Column of 0 and 1: which tokens count; '' if all do.  [any mask]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write the comparison as a page.")] = None,
) -> None:
    """Compare the log-probs of the engine that trains with those of the engine that sampled, and say why they differ.

    Without options the columns are also found under the names that NeMo-RL (prev_logprobs, generation_logprobs) and
    prime-rl (trainer_logprobs, inference_logprobs) give them, and masks under those of any trainer.
    """
    _check_page(html, paths)
    with show_progress(counted=False) as progress:
        task = progress.add_task("reading", total=None)
        columns = files.read_logprobs(paths, train, rollout, mask)
        progress.update(task, description=f"comparing {len(columns.train):,} completions")
        report = compare_engines(columns.train, columns.rollout, columns.groups, columns.terminated, columns.numbers)
    if columns.masks:
        errors.print(f"Only what {' and '.join(columns.masks)} keep counts: --mask '' counts all.", highlight=False)
    if html is not None:
        write_mismatch_page(report, html, title=_title(paths))
    if json:
        print(mismatch_to_json(report))
    else:
        print_mismatch(report, console)
        _say_where(html)


def run() -> None:
    """Run the command line and exit: 0 done, 1 a bug, 2 bad input, 3 a server that fails or is absent, 130 stopped."""
    try:
        app()
    except (ConnectionError, TimeoutError) as error:
        _fail(error, NO_SERVER)
    except (ValueError, FloatingPointError, OSError, ModuleNotFoundError, MemoryError) as error:
        _fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _fail(error: Exception, code: int) -> NoReturn:
    errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    sys.exit(code)


def _show_examples(shown: list[Example]) -> None:
    """Print completions, from the heaviest under the target to the lightest."""
    table = Table("completion", box=None, header_style="dim", pad_edge=False, leading=1)
    for name in ("reward", "log policy", "log prior", "weight"):
        table.add_column(name, justify="right", no_wrap=True)
    for example in shown:
        text = Text(" ".join(example.prompt.split()), style="dim")
        text.append(" " + " ".join(example.completion.split()), style="default")
        numbers = (example.reward, example.log_policy, example.log_prior, example.weight)
        table.add_row(text, *(f"{number:.2f}" for number in numbers))
    console.print("\n[bold]Some completions[/], from the heaviest under the target to the lightest\n")
    console.print(table)
    console.print()


def _load(model: str, device: str | None, dtype: Dtype, notify: Callable[[str], None]) -> TransformersLM:
    from esscher.lm.pair import load_lm

    return load_lm(model, device, dtype.value, notify)


def _chosen(columns: list[Column] | None, prior: str | None, policy: str | None, server: str | None) -> tuple[str, ...]:
    """Return the columns that `score` is to fill."""
    given = tuple(dict.fromkeys(column.value for column in columns or ()))
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
    return given or (there if prior is not None else ("policy_logprobs",))


@contextmanager
def _served(server: str, columns: tuple[str, ...]) -> Iterator[offline.Scorer]:
    from esscher.client import Client

    with Client(server, timeout=SERVER_TIMEOUT) as client:
        yield offline.Server(client, columns)


def _leave_stuck_threads() -> None:
    """End the process, although a reward may never return: Python would wait for its thread for ever."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    for thread in others:
        thread.join(timeout=1.0)
    if any(thread.is_alive() for thread in others):
        logging.warning("some work has not ended, and is left")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


@contextmanager
def _models(
    prior: str | None,
    policy: str | None,
    columns: tuple[str, ...],
    device: str | None,
    dtype: Dtype,
    notify: Callable[[str], None],
) -> Iterator[offline.Scorer]:
    from esscher.lm.packaged import resolve
    from esscher.lm.pair import check_same_tokenizer

    keep_freed_memory()
    loaded = {}
    identity: dict[str, object] = {
        "dtype": dtype.value,
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    for role, model in (("prior", prior), ("policy", policy)):
        if model is not None:
            notify(f"loading {model}")
            loaded[role] = _load(model, device, dtype, notify)
            identity[role] = offline.model_fingerprint(model, resolve(model))
            identity |= {"device": loaded[role].device, "threads": loaded[role].threads}
    if len(loaded) == 2:
        check_same_tokenizer(loaded["policy"], loaded["prior"])
    yield offline.LocalModels(loaded.get("prior"), loaded.get("policy"), columns, identity)


def _show_pace(progress: Progress, task: TaskID, plan: offline.Plan) -> Callable[[offline.Progress], None]:
    """Show how far `score` is, and how fast."""
    began = time.monotonic()

    def show(done: offline.Progress) -> None:
        nonlocal began
        if done.step == "resuming":
            kept = offline.parts_folder(plan.output)
            errors.print(f"going on after {done.rows:,} of {plan.rows.count:,} rows, kept in {kept}", soft_wrap=True)
        if done.step == "checking":
            began = time.monotonic()
        pace = f", {done.tokens / (time.monotonic() - began):,.0f} tokens/s" if done.tokens else ""
        progress.update(task, description=f"{done.step}{pace}", completed=done.rows, total=plan.rows.count)

    return show


@contextmanager
def _saying_how_to_go_on(output: Path) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise  # which the same command would meet again
    except BaseException:
        kept = offline.parts_folder(output)
        if kept.exists():
            errors.print(
                f"what is finished is kept in {escape(str(kept))}: run the same command again to go on", soft_wrap=True
            )
        raise


def _check_page(page: Path | None, paths: list[Path]) -> None:
    """Raise what would keep a page from being written, and do not let it take the place of what is read."""
    if page is None:
        return
    check_place(page)
    if page.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"{page} is one of the files that are read: name another to write to")


def _check_outputs(page: Path | None, picture: Path | None, paths: list[Path]) -> None:
    """Raise what would keep a page and a picture from being written both."""
    for output in (page, picture):
        _check_page(output, paths)
    if picture is None:
        return
    check_picture(picture)
    if page is not None and page.resolve() == picture.resolve():
        raise ValueError(f"{page} is given for the page and for the picture: name two files")


def _renames(columns: list[str] | None) -> dict[str, str]:
    pairs = [column.partition("=") for column in columns or []]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise ValueError(f"--columns {ours}{equals}{theirs}: write it as ours=theirs, for example reward=score")
    return {ours: theirs for ours, _, theirs in pairs}


def _target(beta: float | None, threshold: float | None) -> Target | None:
    if beta is not None and threshold is not None:
        raise ValueError("--beta and --threshold are two different targets: give one of them")
    if beta is not None:
        return Tilt(beta)
    return None if threshold is None else Condition(threshold)


def _decoder(model: str) -> Callable[[Sequence[int]], str]:
    from esscher.lm.packaged import resolve
    from esscher.lm.transformers import load_tokenizer, locate

    tokenizer = load_tokenizer(locate(resolve(model)))
    return lambda ids: str(tokenizer.decode(list(ids)))


def _show(
    report: Report, *, json: bool, html: Path | None, decode: Callable[[Sequence[int]], str] | None, title: str
) -> None:
    # First, so that whoever reads only the beginning of the output has it.
    if html is not None:
        write_page(report, html, decode=decode, title=title)
    if json:
        print(to_json(report))
    else:
        print_report(report, console=console, decode=decode)
        _say_where(html)


def _say_where(page: Path | None, picture: Path | None = None) -> None:
    written = {"Page": page, "Picture": picture}
    places = [f"{what}: {path.resolve()}" for what, path in written.items() if path is not None]
    if places:
        console.print("\n" + "\n".join(places), soft_wrap=True, markup=False)


def _title(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)
