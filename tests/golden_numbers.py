"""Numbers of every report and estimator on samples that never change, to see which a change moves.

`python tests/golden_numbers.py` writes them to golden/numbers.json; test_golden.py compares.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np

import esscher
from esscher import Condition, Moments, Ragged, Samples, Tilt, compare, evaluate, mismatch, prototype, solve_beta
from esscher.divergence import estimate_kls
from esscher.frontier import frontier

HERE = Path(__file__).parent / "golden"
NUMBERS = HERE / "numbers.json"
# Columns that are longer are told by their sum, and by their sum with falling weights.
LONGEST = 16


def rollouts(name):
    """Completions of SmolLM2 by two engines: 8 prompts of 8 (see rollouts.py), with a reward made of their ids."""
    with np.load(HERE / "rollouts.npz") as arrays:
        ids, policy, prior, lengths = (arrays[f"{name}/2/{field}"] for field in ("ids", "rollout", "train", "lengths"))
    return Samples(
        prompts=Ragged.from_rows([[prompt, 7] for prompt in range(8)]),
        completions=Ragged.from_lengths(ids.astype(np.uint32), lengths.astype(np.int64)),
        groups=np.arange(9) * 8,
        policy_logprobs=Ragged.from_lengths(policy, lengths.astype(np.int64)),
        prior_logprobs=Ragged.from_lengths(prior, lengths.astype(np.int64)),
        rewards=np.array([np.mean(row % 7 == 0) for row in Ragged.from_lengths(ids, lengths.astype(np.int64))]),
    )


def made(seed, sizes, shift):
    """Completions of a few tokens, of prompts of the given sizes, with log-probs of no model."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, size=sum(sizes))
    prior = -rng.exponential(1.0, size=lengths.sum()) - 0.01
    policy = np.minimum(prior + rng.normal(0, shift, size=len(prior)), -1e-3)
    return Samples(
        prompts=Ragged.from_rows([[prompt, 3] for prompt in range(len(sizes))]),
        completions=Ragged.from_lengths(rng.integers(20, size=len(prior)).astype(np.uint32), lengths),
        groups=np.concatenate([[0], np.cumsum(sizes)]),
        policy_logprobs=Ragged.from_lengths(policy, lengths),
        prior_logprobs=Ragged.from_lengths(prior, lengths),
        rewards=rng.normal(size=len(lengths)),
        token_kl=Ragged.from_lengths(rng.exponential(0.1, size=len(prior)), lengths),
    )


def samples():
    equal, unequal = made(1, [24] * 12, 0.2), made(2, [2, 5, 40, 9, 17, 60, 3, 30], 0.3)
    return {"smollm2": rollouts("temperature 1.3"), "equal": equal, "unequal": unequal, "one": made(3, [90], 0.2)}


def numbers():
    """Return every number under the path to it."""
    found = {}
    for name, given in samples().items():
        targets = {"tilt": Tilt(0.5), "condition": Condition(0.1), "product": Tilt(1.0) * Moments([0.3])}
        for kind, target in targets.items():
            found[f"evaluate/{name}/{kind}"] = evaluate(given, target, features=given.rewards)
        found[f"evaluate/{name}/of the prior"] = evaluate(given, Tilt(0.5), proposal="prior")
        found[f"evaluate/{name}/no target"] = evaluate(given)
        found[f"kls/{name}"] = {key: kl.per_sequence for key, kl in estimate_kls(given).items()}
        found[f"frontier/{name}"] = frontier(given.rewards, [3.0, 1.0, 0.4], given.groups)
        found[f"prototype/{name}"] = prototype(given)
        found[f"solve/{name}"] = [solve_beta(given.rewards, kl=kl, groups=given.groups) for kl in (0.01, 0.2)]
        found[f"mismatch/{name}"] = mismatch(given.prior_logprobs, given.policy_logprobs, given.groups)
        found[f"inference/{name}"] = of_inference(given)
    equal = samples()["equal"]
    prior = replace(equal, rewards=equal.rewards[::-1].copy(), token_kl=None)
    policies = {"policy": unlike(equal), "other": replace(unlike(equal), token_kl=None)}
    found["compare"] = compare(prior, policies, beta=0.7)
    found["compare at its KL"] = compare(prior, {"policy": policies["policy"]})
    return dict(flat(found))


def unlike(given):
    """The same prompts with completions none of which is the same."""
    other = made(9, [24] * 12, 0.2)
    completions = Ragged(other.completions.values + np.uint32(20), other.completions.offsets)
    return replace(other, prompts=given.prompts, completions=completions)


def of_inference(given):
    sums = [np.add.reduceat(c.values, c.offsets[:-1]) for c in (given.policy_logprobs, given.prior_logprobs)]
    policy, prior = (np.asarray(column, np.float64) for column in sums)
    log_target = prior + given.rewards
    n = np.array([1, 2])
    from_policy = np.arange(len(policy)) % 2 == 0
    smallest = esscher.importance(log_target, policy, given.groups)
    return {
        "importance": {"log_z": smallest.log_z, "ess": smallest.ess, "pareto_k": smallest.pareto_k},
        "best_of_n": esscher.best_of_n_rewards(given.rewards, given.groups, n).reward,
        "elbo": esscher.log_z_lower_bound(log_target - policy, groups=given.groups).value,
        "iwae": esscher.log_z_lower_bound(log_target - policy, 2, given.groups).value,
        "mixture": esscher.mixture_log_z(log_target, prior, policy, from_policy, given.groups).log_z,
    }


def flat(value, path=""):
    """Every number below a value, with the path to it; of long columns what tells them apart."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if len(value) <= LONGEST else digest(value)
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        for key, one in value.items():
            yield from flat(one, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            yield from flat(one, f"{path}/{i}")
    elif isinstance(value, bool | int | float):
        yield path, value


def digest(column):
    """Say of a long column how many entries are not finite, and two sums of the others."""
    finite = np.where(np.isfinite(column), column, 0.0).astype(np.float64)
    return {
        "length": len(column),
        "not finite": int((~np.isfinite(column)).sum()),
        "sum": float(finite.sum()),
        "falling": float((finite / np.arange(1, len(column) + 1)).sum()),
    }


if __name__ == "__main__":
    print(f"esscher {esscher.__version__} of {Path(esscher.__file__).parent}")
    NUMBERS.write_text(json.dumps(numbers(), indent=0) + "\n")
