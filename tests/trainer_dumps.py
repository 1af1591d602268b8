"""The same four completions as the tools write them: two prompts, ids below 5, and one with an answer in between."""

from __future__ import annotations

import json

# Of each completion: prompt, ids, which of them the policy chose, log-probs of those, by trainer, sampler and prior.
PROMPTS = [[1, 3], [1, 3], [1, 4, 4], [1, 4, 4]]
COMPLETIONS = [[2, 3, 0], [3, 0], [2, 4, 4, 3], [4, 3, 2, 0]]
CHOSEN = [[1, 1, 1], [1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
TRAINER = [[-0.5, -1.5, -0.25], [-2.0, -0.125], [-0.75, -1.25], [-0.5, -0.5, -1.0, -0.25]]
SAMPLER = [[-0.625, -1.5, -0.25], [-2.0, -0.25], [-0.75, -1.0], [-0.5, -0.75, -1.0, -0.25]]
PRIOR = [[-1.0, -1.0, -0.5], [-1.0, -1.0], [-0.5, -1.5], [-1.5, -0.5, -1.0, -2.0]]
REWARDS = [0.5, -1.0, 2.0, 0.0]
ENDED = ["stop", "stop", "length", "stop"]


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spread(values, chosen, filler=0.0):
    """Put values of the tokens that were chosen where these stand."""
    left = iter(values)
    return [next(left) if one else filler for one in chosen]


def nemo_rl(i, width=8):
    """A row of `train_data_step{N}.jsonl`."""
    before = len(PROMPTS[i])
    padding = [0] * (width - before - len(COMPLETIONS[i]))

    def whole(values, of_prompt=0.0):
        return [[*[of_prompt] * before, *spread(values, CHOSEN[i]), *map(float, padding)]]

    return {
        "content": ["text"],
        "rewards": [REWARDS[i]],
        "input_lengths": [before + len(COMPLETIONS[i])],
        "token_ids": [[*PROMPTS[i], *COMPLETIONS[i], *padding]],
        "token_loss_mask": [[*[0] * before, *CHOSEN[i], *padding]],
        "sample_loss_mask": [1.0],
        "advantages": [[0.0] * width],
        "generation_logprobs": whole(SAMPLER[i]),
        "prev_logprobs": whole(TRAINER[i], -9.0),
        "idx": i,
    }


def prime_rl(i, **changes):
    """A row of `token_exports/step_{N}/rank_{R}.jsonl`."""
    before = len(PROMPTS[i])
    ids = [*PROMPTS[i], *COMPLETIONS[i]]
    return {
        "schema_version": 1,
        "step": 1,
        "rank": 0,
        "micro_step": 0,
        "export_sequence_idx": i,
        "env_name": "toy",
        "token_ids": ids,
        "position_ids": list(range(len(ids))),
        "loss_mask": [*[False] * before, *map(bool, CHOSEN[i])],
        "advantages": [0.0] * len(ids),
        "inference_logprobs": [*[0.0] * before, *spread(SAMPLER[i], CHOSEN[i])],
        "trainer_logprobs": [*[-9.0] * before, *spread(TRAINER[i], CHOSEN[i], None)],
        "entropy": [*[1.0] * before, *spread([0.5] * len(TRAINER[i]), CHOSEN[i], 3.0)],
        "mismatch_kl": None,
        **changes,
    }


def turns(i):
    """Parts of a completion that were chosen or not, each as its ids."""
    parts = []
    for token, chosen in zip(COMPLETIONS[i], CHOSEN[i], strict=True):
        if not parts or parts[-1][0] != chosen:
            parts.append((chosen, []))
        parts[-1][1].append(token)
    return parts


def verifiers(i, **changes):
    """An episode of `traces.jsonl`."""
    nodes = [{"sampled": False, "token_ids": PROMPTS[i], "mask": [False] * len(PROMPTS[i]), "logprobs": []}]
    done = 0
    for chosen, ids in turns(i):
        node = {"parent": len(nodes) - 1, "sampled": bool(chosen), "token_ids": ids, "mask": [bool(chosen)] * len(ids)}
        of = slice(done, done + len(ids) * chosen)
        node |= {"logprobs": SAMPLER[i][of], "trainer_logprobs": TRAINER[i][of], "reference_logprobs": PRIOR[i][of]}
        nodes.append(node)
        done = of.stop
    trace = {
        "nodes": nodes,
        "calls": [{"node": len(nodes) - 1, "finish_reason": ENDED[i]}],
        "rewards": {"right": {"score": REWARDS[i] - 1, "weight": 1.0}, "short": {"score": 2.0, "weight": 0.5}},
        "metrics": {"turns": float(len(turns(i)))},
        "ok": False,
        "errors": [],
    }
    episode = {"id": str(i), "env": {"id": "toy"}, "task": {"key": "x"}, "group": {"id": f"g{i // 2}"}, "ok": True}
    return episode | {"run": {"work": {"type": "train", "step": 1}}, "traces": [trace]} | changes


def open_instruct(i, step=1, **changes):
    """A row of `{name}_rollouts_{k}.jsonl`."""
    return {
        "step": step,
        "sample_idx": i,
        "prompt_idx": i // 2,
        "prompt_tokens": PROMPTS[i],
        "response_tokens": COMPLETIONS[i],
        "reward": REWARDS[i],
        "advantage": 0.0,
        "finish_reason": ENDED[i],
        "dataset": "toy",
        "ground_truth": None,
        "request_info": None,
        "logprobs": spread(TRAINER[i], CHOSEN[i]),
        **changes,
    }


def vllm_choice(i, index):
    """A choice of a chat completion."""
    tokens = zip(COMPLETIONS[i], spread(TRAINER[i], CHOSEN[i]), strict=True)
    return {
        "index": index,
        "message": {"role": "assistant", "content": f"text {i}"},
        "logprobs": {"content": [{"token": str(token), "logprob": value} for token, value in tokens]},
        "finish_reason": ENDED[i],
        "token_ids": COMPLETIONS[i],
    }


def vllm(rows, **changes):
    """A line of run-batch: a request with a choice for each of some completions of one prompt."""
    body = {
        "object": "chat.completion",
        "choices": [vllm_choice(i, index) for index, i in enumerate(rows)],
        "prompt_token_ids": PROMPTS[rows[0]],
        "prompt_logprobs": None,
    }
    response = {"status_code": 200, "request_id": "x", "body": body | changes}
    return {"id": "x", "custom_id": f"request-{rows[0]}", "response": response, "error": None}
