"""What samples of the prior and of a policy share: their prompts, and what they say of the same completions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from esscher.samples import match_prompts, prompt_keys
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from esscher.samples import Samples

# Log-probs of the same completion that differ by more, in nats per token, are not of the same model: bfloat16 and
# other kernels make up to half as much in completions of a few tokens.
DIFFERENT = 0.2
# If most differ by less than this, they are of the same model.
SAME = 0.05
# Of log-probs so many may differ before it is said; of rewards, none.
FEW = 0.05
# Rewards of the same completion that differ by more, in standard deviations of the prior's, are not the same.
SAME_REWARD = 1e-3
# What else may be wrong where it is the policy's log-probs that differ.
SAMPLER = ", and leave policy_logprobs out of the prior's samples if they are those of what drew them"

# Where completions are, by their prompt (see `prompt_keys`) and their token ids.
Places = dict[tuple[tuple[bytes, int], bytes], int]


@contextmanager
def naming(whose: str) -> Iterator[None]:
    """Say in errors whose samples they are about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{whose}: {error}") from error


def match(prior: Samples, policies: Mapping[str, Samples]) -> tuple[Samples, dict[str, Samples], list[ReportWarning]]:
    """Return of all only the prompts that all have, in the prior's order, and say which were left out.

    Raises
    ------
    ValueError
        If there is no such prompt.
    """
    matched = match_prompts([prior, *policies.values()])
    parts = {"the prior's samples": prior} | {repr(name): samples for name, samples in policies.items()}
    if matched is None:
        raise ValueError(
            f"{' and '.join(parts)} share no prompt (prompts are compared by their token ids): draw all from the same "
            "prompts, tokenised alike"
        )
    kept = len(matched[0].prompts)
    if all(len(samples.prompts) == kept for samples in parts.values()):
        return matched[0], dict(zip(policies, matched[1:], strict=True)), []
    had = ", ".join(f"{name} {'has' if i else 'have'} {_count(part)}" for i, (name, part) in enumerate(parts.items()))
    seen = f"Only the prompts that all samples share are compared, {kept} of them: {had}."
    return matched[0], dict(zip(policies, matched[1:], strict=True)), [ReportWarning("unshared-prompts", seen)]


def _count(samples: Samples) -> str:
    """Say how many prompts there are, and if some are the same."""
    different = len({ids for ids, _ in prompt_keys(samples)})
    return f"{len(samples.prompts)}{f' ({different} different)' if different < len(samples.prompts) else ''}"


def is_own(prior: Samples) -> bool:
    """Whether there are no log-probs but the prior's own, be it as those of the policy that drew its samples."""
    if prior.policy_logprobs is None or prior.prior_logprobs is None:
        return True
    differences = _differences(prior.prior_log_prob, prior.policy_log_prob)
    return float(np.median(differences / prior.actions.lengths)) <= SAME


def completions_of(samples: Samples) -> Places:
    """Return where each completion is, by its prompt and its token ids."""
    return {row: i for i, row in enumerate(_rows(samples))}


def check_shared(samples: Samples, prior: Samples, of_prior: Places) -> list[ReportWarning]:
    """Compare rewards and log-probs of the completions that are in both samples; say if some differ.

    `of_prior` is what `completions_of` gives of the prior's samples, so that it is made once for all policies.

    Raises
    ------
    ValueError
        If most differ by so much that they are not of the same reward or model.
    """
    pairs = [(i, of_prior[row]) for i, row in enumerate(_rows(samples)) if row in of_prior]
    mine, others = np.array(pairs, np.int64).reshape(-1, 2).T
    if len(mine) == 0:
        return []
    warnings = []
    for whose in ("prior", "policy"):
        column = f"{whose}_logprobs"
        if column in prior.columns:
            own, known = (getattr(each, f"{whose}_log_prob") for each in (samples, prior))
            warnings += _check_logprobs(column, own[mine], known[others], samples.actions.lengths, mine)
    rewards, of_prior_rewards = (each.need("rewards", why="they are compared") for each in (samples, prior))
    finite = of_prior_rewards[np.isfinite(of_prior_rewards)]
    with np.errstate(over="ignore"):  # `prototype` refuses such rewards
        spread = float(finite.std()) if len(finite) else 0.0
    return warnings + _check_rewards(rewards[mine], of_prior_rewards[others], spread, mine)


def _check_logprobs(
    column: str,
    log_probs: NDArray[np.float64],
    of_prior: NDArray[np.float64],
    lengths: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> list[ReportWarning]:
    differences = _differences(log_probs, of_prior) / lengths[rows]
    worst, many = int(differences.argmax()), int((differences > DIFFERENT).sum())
    if many <= FEW * len(rows):
        return []
    said = (
        f"{column} of completion {rows[worst]} sum to {log_probs[worst]:.4g}, those of the same completion among "
        f"the prior's samples to {of_prior[worst]:.4g}, and they differ in {many} of the {len(rows)} that are in both"
    )
    if np.median(differences) > DIFFERENT:
        raise ValueError(
            f"the {said}: they are of different models, or of other sampling settings. Score both with the same model"
            f"{SAMPLER if column == 'policy_logprobs' else ''}"
        )
    seen = f"The {said}: some are of another model, or of other sampling settings."
    return [ReportWarning("other-models", seen, "Score all with the same.")]


def _check_rewards(
    rewards: NDArray[np.float64], of_prior: NDArray[np.float64], spread: float, rows: NDArray[np.int64]
) -> list[ReportWarning]:
    differences = _differences(rewards, of_prior)
    worst, many = int(differences.argmax()), int((differences > SAME_REWARD * spread).sum())
    if many == 0:
        return []
    said = (
        f"reward of completion {rows[worst]} is {rewards[worst]:.4g}, that of the same completion among the "
        f"prior's samples {of_prior[worst]:.4g}, and they differ in {many} of the {len(rows)} that are in both"
    )
    if np.median(differences) > spread:
        raise ValueError(f"the {said}: it is another reward. Give both the same")
    return [ReportWarning("other-reward", f"The {said}: what it got is known only if both have the same reward.")]


def _rows(samples: Samples) -> Iterator[tuple[tuple[bytes, int], bytes]]:
    """Prompt and completion of each, to find the same again."""
    prompts = prompt_keys(samples)
    return ((prompts[p], row.tobytes()) for p, row in zip(samples.groups.of.tolist(), samples.completions, strict=True))


def _differences(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far they are apart; the same infinities are not."""
    with np.errstate(invalid="ignore"):
        differences: NDArray[np.float64] = np.where(some == others, 0.0, np.abs(some - others))
    return differences
