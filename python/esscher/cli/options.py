"""Options that several commands have, and those made from the fields of a settings record."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import Field

Command = TypeVar("Command", bound="Callable[..., None]")

MODEL_HELP = (
    "A folder, of a model or of an adapter, a GGUF file, a hub name, or one of **smollm2** and **alice**, which come "
    "as Python packages."
)
Dtype = Literal["float32", "bfloat16", "float16"]

Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...  [default: cuda if there is one]")]
Precision = Annotated[Dtype, typer.Option(help="Precision of the model's weights.")]
Reward = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION|MODEL",
        help="A function of *prompts* and *completions*, lists of texts, or a sequence-classification model; "
        "**esscher.lm.rewards:sentiment** is one.",
    ),
]
RewardLabel = Annotated[
    str | None, typer.Option(help="The label whose log-probability is the reward, where the model has several.")
]
Renames = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="OURS=THEIRS",
        help="What a column is called in the file, as *ours=theirs*; may be given several times.",
    ),
]
IgnoredMasks = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-mask",
        metavar="NAME",
        help="A mask such as *loss_mask* that is ignored: all tokens and rows count. May be given several times.",
    ),
]
Tool = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TOOL",
        help="Which tool wrote the files, such as **verl**; **ours** if none did.  [default: it is recognised]",
    ),
]
Step = Annotated[
    str | None,
    typer.Option(metavar="N", help="The step of training to read, where there are several; **all** takes all as one."),
]
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME[=WEIGHT]",
        help="A column that is a reward; of several the weighted sum is.  [default: the tool's own total]",
    ),
]

Gold = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="A column with another reward, which rewards are the proxy of: what becomes of it under the targets.",
    ),
]

Explain = Annotated[bool, typer.Option("--explain", help="Print all that warnings say, and what to do.")]


def renames_of(columns: list[str] | None) -> dict[str, str]:
    """Return what our columns are called in files, as the values of ``--columns`` say."""
    pairs = [column.partition("=") for column in columns or []]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise ValueError(f"--columns {ours}{equals}{theirs}: write it as ours=theirs, for example rewards=score")
    return {ours: theirs for ours, _, theirs in pairs}


def weights_of(rewards: list[str] | None) -> dict[str, float] | None:
    """Return what each reward weighs, as the values of ``--reward`` say; `None` if none are given."""
    if not rewards:
        return None
    weights = {}
    for one in rewards:
        name, _, weight = one.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError as error:
            raise ValueError(f"--reward {one}: write it as NAME or NAME=WEIGHT, for example length=0.5") from error
    return weights


def with_settings(record: type[Any], texts: Mapping[str, str], **called: str) -> Callable[[Command], Command]:
    """Give a command that takes ``**settings`` an option for each field of a dataclass.

    Types, ranges and the defaults that the help names are the record's. An option that is not given is `None`.

    Parameters
    ----------
    record
        The dataclass; a field's metadata may have the "least" value that it takes.
    texts
        The help of each field's option.
    called
        What the options of some fields are called, where that is not the field's name.
    """
    kinds = get_type_hints(record)

    def option_of(one: Field[Any]) -> inspect.Parameter:
        default = str(one.default) if isinstance(one.default, str | bool) else f"{one.default:g}"
        option = typer.Option(
            help=f"{texts[one.name]}  [default: {default}]", min=one.metadata.get("least"), rich_help_panel="Settings"
        )
        name, kind = called.get(one.name, one.name), Annotated[kinds[one.name] | None, option]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    def add_options(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        made = signature.replace(parameters=[*own, *map(option_of, fields(record))])
        command.__signature__ = made  # type: ignore[attr-defined]
        return command

    return add_options
