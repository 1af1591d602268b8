"""Samples and targets to and from the wire; what arrives is checked before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.groups import Groups
from esscher.ragged import Ragged, as_flags, check_rows
from esscher.samples import Samples, check_samples
from esscher.target import Condition, Target, Tilt
from esscher.v1 import samples_pb2, target_pb2
from esscher.v1 import scoring_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from esscher.evaluate.posterior import Proposal
    from esscher.samples import Tokens

TOKEN_COLUMNS = ("policy_logprobs", "prior_logprobs", "token_kl", "policy_entropy")
TOKEN_ID = np.dtype("<u4")
LOGPROB = np.dtype("<f4")
# Columns that a server computes, by their numbers on the wire; their names are those of Samples.
# What ids are, by the numbers of the wire.
TOKENS: dict[Tokens, samples_pb2.Tokens] = {
    "sampled": samples_pb2.TOKENS_UNSPECIFIED,
    "retokenised": samples_pb2.TOKENS_RETOKENISED,
    "words": samples_pb2.TOKENS_WORDS,
}
COLUMNS: dict[int, str] = {number: name.removeprefix("COLUMN_").lower() for name, number in pb.Column.items() if number}


def encode_tokens(samples: Samples) -> samples_pb2.Samples:
    """Encode prompts, completions and groups alone: what a model needs to score them."""
    check_samples("samples", samples)
    return samples_pb2.Samples(
        prompt_token_ids=samples.prompts.values.astype(TOKEN_ID, copy=False).tobytes(),
        prompt_lengths=samples.prompts.lengths.tolist(),
        group_sizes=samples.groups.sizes.tolist(),
        completion_token_ids=samples.completions.values.astype(TOKEN_ID, copy=False).tobytes(),
        completion_lengths=samples.completions.lengths.tolist(),
        action_mask=b"" if samples.action_mask is None else samples.action_mask.values.tobytes(),
        tokens=TOKENS[samples.tokens],
    )


def encode_samples(samples: Samples) -> samples_pb2.Samples:
    """Encode samples with all their columns.

    Token columns are float32 on the wire: float64 ones are rounded to the nearest float32, others arrive exactly.

    Raises
    ------
    ValueError
        If a finite value of a float64 column is too large for float32.

    Examples
    --------
    >>> samples = Samples(Ragged.from_rows([[1, 2]]), Ragged.from_rows([[7, 8], [9]]), [0, 2], rewards=[1.0, 0.0])
    >>> message = encode_samples(samples)
    >>> len(message.completion_token_ids), list(message.completion_lengths)
    (12, [2, 1])
    >>> decode_samples(message)
    Samples(1 prompt, 2 completions, 3 tokens; rewards)
    """
    message = encode_tokens(samples)
    for name in TOKEN_COLUMNS:
        column: Ragged | None = getattr(samples, name)
        if column is not None:
            setattr(message, name, encode_logprobs(name, column.values))
    if samples.cross_log_probs is not None:
        message.cross_log_probs = encode_logprobs("cross_log_probs", samples.cross_log_probs.values)
        message.cross_lengths.extend(samples.cross_log_probs.lengths.tolist())
    if samples.rewards is not None:
        message.rewards.extend(samples.rewards.tolist())
    if samples.terminated is not None:
        message.terminated.extend(samples.terminated.tolist())
    return message


def decode_samples(message: samples_pb2.Samples) -> Samples:
    """Decode samples; their arrays are read-only views of the message's bytes.

    Raises
    ------
    ValueError
        If a column's size disagrees with the lengths, or the samples break a rule of `Samples`. The message names the
        field, the index and the rule.
    """
    _check_counts(message)
    prompts = _decode_rows(message, "prompt_token_ids", TOKEN_ID, "prompt_lengths")
    completions = _decode_rows(message, "completion_token_ids", TOKEN_ID, "completion_lengths")
    columns: dict[str, Any] = _decode_mask(message, completions)
    actions = columns["action_mask"].rows.sums(columns["action_mask"].values) if columns else completions.lengths
    what = "completion_lengths" if not columns else "the actions of action_mask"
    for name in TOKEN_COLUMNS:
        if getattr(message, name):
            values = decode_values(name, getattr(message, name), LOGPROB, int(actions.sum()), what)
            columns[name] = Ragged.from_lengths(values, actions)
    if len(message.cross_lengths):
        columns["cross_log_probs"] = _decode_rows(message, "cross_log_probs", LOGPROB, "cross_lengths")
    for name, dtype in (("rewards", np.float64), ("terminated", np.bool_)):
        column = getattr(message, name)
        if len(column):
            columns[name] = np.fromiter(column, dtype, len(column))
    return Samples(
        prompts,
        completions,
        decode_groups(
            message.group_sizes,
            len(message.prompt_lengths),
            len(completions),
            "prompt_lengths",
            "completion_lengths",
        ),
        tokens=decode_tokens(message.tokens),
        **columns,
    )


def _decode_mask(message: samples_pb2.Samples, completions: Ragged) -> dict[str, Any]:
    if not message.action_mask:
        return {}
    n = len(completions.values)
    mask = decode_values("action_mask", message.action_mask, np.dtype(np.uint8), n, "completion_lengths")
    return {"action_mask": Ragged(as_flags("action_mask", mask, n), completions.offsets)}


def decode_tokens(number: int) -> Tokens:
    """Decode what token ids are; raises `ValueError` if it is not known here."""
    for tokens, known in TOKENS.items():
        if number == known:
            return tokens
    raise ValueError(f"tokens is {number}, which is not known here: there are {', '.join(map(str, TOKENS.values()))}")


def encode_logprobs(name: str, values: NDArray[Any]) -> bytes:
    """Encode float32 or float64 values as little-endian float32.

    Raises
    ------
    ValueError
        If a finite value is too large for float32; the message names `name` and the index.
    """
    return _narrow(name, values).tobytes()


def _narrow(name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype == LOGPROB:
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(LOGPROB)
    lost = np.flatnonzero(np.isinf(narrow) & np.isfinite(values))
    if len(lost):
        raise ValueError(f"{name}: value {lost[0]} is {values[lost[0]]}, too large for the float32 of the wire")
    return narrow


def decode_values(name: str, column: bytes, dtype: np.dtype[Any], n: int, lengths: str) -> NDArray[Any]:
    """Return a column of bytes as `n` numbers of `dtype`: a read-only view.

    Raises
    ------
    ValueError
        If the column is not `n` numbers long, where `lengths` names what says so.
    """
    if len(column) % dtype.itemsize:
        raise ValueError(f"{name} has {len(column)} bytes: it must be a multiple of {dtype.itemsize}")
    if len(column) != n * dtype.itemsize:
        raise ValueError(f"{name} has {len(column) // dtype.itemsize} values, but {lengths} sum to {n}")
    return np.frombuffer(column, dtype)


def decode_columns(numbers: Sequence[int]) -> tuple[str, ...]:
    """Decode names of columns, each once; raises `ValueError` if there are none, or one is not known here.

    Examples
    --------
    >>> decode_columns([pb.COLUMN_TOKEN_KL, pb.COLUMN_REWARDS])
    ('token_kl', 'rewards')
    """
    columns = tuple(dict.fromkeys(numbers))
    if not columns:
        raise ValueError("columns is empty: ask for at least one")
    for number in columns:
        if number not in COLUMNS:
            known = ", ".join(f"{number} ({name})" for number, name in COLUMNS.items())
            raise ValueError(f"columns has {number}, which is no column that is known here: there are {known}")
    return tuple(COLUMNS[number] for number in columns)


def encode_target(target: Target) -> target_pb2.Target:
    """Encode a target.

    Examples
    --------
    >>> decode_target(encode_target(Tilt(beta=0.5)))
    Tilt(beta=0.5)
    """
    if isinstance(target, Tilt):
        return target_pb2.Target(tilt=target_pb2.Tilt(beta=target.beta))
    if isinstance(target, Condition):
        return target_pb2.Target(condition=target_pb2.Condition(threshold=target.threshold))
    raise TypeError(
        f"target is {type(target).__name__}: a server takes Tilt or Condition; use esscher.evaluate for others"
    )


def decode_target(message: target_pb2.Target) -> Target:
    """Decode a target; raises `ValueError` if it has no kind or its parameter breaks a rule."""
    if message.HasField("tilt"):
        return Tilt(message.tilt.beta)
    if message.HasField("condition"):
        return Condition(message.condition.threshold)
    raise ValueError("target has no kind: set tilt or condition, or leave target out")


def encode_proposal(proposal: Proposal) -> target_pb2.Proposal:
    """Encode "policy" or "prior"; raises `ValueError` if it is neither."""
    if proposal not in ("policy", "prior"):
        raise ValueError(f"proposal is {proposal!r}: it must be 'policy' or 'prior', where the samples came from")
    return target_pb2.PROPOSAL_POLICY if proposal == "policy" else target_pb2.PROPOSAL_PRIOR


def decode_proposal(proposal: int) -> Proposal:
    """Decode a proposal; raises `ValueError` if it is not said, or not known here."""
    if proposal == target_pb2.PROPOSAL_POLICY:
        return "policy"
    if proposal == target_pb2.PROPOSAL_PRIOR:
        return "prior"
    raise ValueError(
        f"proposal is {proposal}: it must be PROPOSAL_POLICY or PROPOSAL_PRIOR, where the samples came from"
    )


def _decode_rows(message: Any, name: str, dtype: np.dtype[Any], lengths: str) -> Ragged:
    rows = _decode_lengths(getattr(message, lengths))
    return Ragged.from_lengths(decode_values(name, getattr(message, name), dtype, int(rows.sum()), lengths), rows)


def decode_groups(
    group_sizes: Sequence[int], prompts: int, completions: int, of_prompts: str, of_completions: str
) -> Groups:
    """Make groups of their sizes; raises `ValueError` if these do not fit what has an entry for each."""
    sizes = _decode_lengths(group_sizes)
    if len(sizes) != prompts:
        raise ValueError(
            f"group_sizes has {len(sizes)} entries, but {of_prompts} has {prompts}: each prompt has one of both"
        )
    if sizes.sum() != completions:
        raise ValueError(f"group_sizes sum to {sizes.sum()}, but {of_completions} has {completions} entries")
    return Groups.from_sizes(sizes)


def encode_logprob_pair(policy_logprobs: Ragged, prior_logprobs: Ragged) -> bytes:
    """Encode log-probs of the same completions as an `EstimateKlRequest`; raises `ValueError` if their rows differ.

    The columns are joined to the rest of the message as they are: protobuf would copy them three times on the way,
    which would take as long as sending them.
    """
    check_rows("policy_logprobs", policy_logprobs)
    check_rows("prior_logprobs", prior_logprobs)
    if not np.array_equal(policy_logprobs.offsets, prior_logprobs.offsets):
        raise ValueError("policy_logprobs and prior_logprobs have different rows: both are of the same completions")
    pieces: list[Any] = [pb.EstimateKlRequest(completion_lengths=policy_logprobs.lengths.tolist()).SerializeToString()]
    for name, values in (("policy_logprobs", policy_logprobs.values), ("prior_logprobs", prior_logprobs.values)):
        column: Any = np.ascontiguousarray(_narrow(name, values))
        field = pb.EstimateKlRequest.DESCRIPTOR.fields_by_name[name].number
        # A field of bytes: its number and kind, its length, itself.
        pieces += [bytes([field << 3 | 2]), _varint(column.nbytes), memoryview(column).cast("B")]
    return b"".join(pieces)


def _varint(number: int) -> bytes:
    """Encode a length: seven bits a byte, the lowest first, with the eighth set but in the last."""
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def decode_logprob_pair(message: pb.EstimateKlRequest) -> tuple[Ragged, Ragged]:
    """Decode log-probs of the same completions: read-only views; raises `ValueError` if sizes and lengths disagree."""
    _check_tokens("policy_logprobs", message.policy_logprobs, len(message.completion_lengths))
    policy = _decode_rows(message, "policy_logprobs", LOGPROB, "completion_lengths")
    return policy, Ragged(
        decode_values("prior_logprobs", message.prior_logprobs, LOGPROB, len(policy.values), "completion_lengths"),
        policy.offsets,
    )


def _check_counts(message: samples_pb2.Samples) -> None:
    """Refuse lengths of nothing at once: millions of them fit into few bytes, and become large arrays."""
    prompts, completions = len(message.prompt_lengths), len(message.completion_lengths)
    if prompts > completions:
        raise ValueError(
            f"prompt_lengths has {prompts} entries, but completion_lengths has {completions}: "
            "each prompt has a completion"
        )
    _check_tokens("completion_token_ids", message.completion_token_ids, completions)


def _check_tokens(name: str, column: bytes, completions: int) -> None:
    if completions > len(column) // 4:
        raise ValueError(
            f"completion_lengths has {completions} entries, but {name} has {len(column)} bytes: "
            "each completion has a token"
        )


def _decode_lengths(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Uint32 as int64: a message has less than 2^31 bytes, so sums stay below 2^63."""
    return np.fromiter(lengths, np.int64, len(lengths))
