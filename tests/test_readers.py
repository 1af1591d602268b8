"""What other tools write is read as samples: whose a file is, and what its rows mean in our columns."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trainer_dumps as dumps
from esscher import files
from trainer_dumps import CHOSEN, COMPLETIONS, ENDED, PRIOR, PROMPTS, REWARDS, SAMPLER, TRAINER, spread, write_lines


def column(path, name):
    return files.load(path).column(name).to_pylist()


def chosen_only(values, mask):
    """Values of the tokens that the policy chose: a column may have those alone."""
    return [
        row if len(row) == sum(chosen) else [x for x, one in zip(row, chosen, strict=True) if one]
        for row, chosen in zip(values, mask, strict=True)
    ]


def nemo_rl(folder):
    return write_lines(folder / "train_data_step1.jsonl", [dumps.nemo_rl(i) for i in range(4)])


def verifiers(folder):
    return write_lines(folder / "step_1" / "train" / "all" / "traces.jsonl", [dumps.verifiers(i) for i in range(4)])


def vllm(folder):
    return write_lines(folder / "out.jsonl", [dumps.vllm([0, 1]), dumps.vllm([2, 3])])


# What files of ids hold beside prompts and completions, by tool.
OF_IDS = {
    "nemo-rl": (nemo_rl, {"policy_logprobs": TRAINER, "rollout_logprobs": SAMPLER, "rewards": REWARDS, "mask": CHOSEN}),
    "verifiers": (
        verifiers,
        {
            "policy_logprobs": TRAINER,
            "rollout_logprobs": SAMPLER,
            "prior_logprobs": PRIOR,
            "rewards": REWARDS,
            "mask": CHOSEN,
            "ended": ENDED,
        },
    ),
    "vllm": (vllm, {"policy_logprobs": TRAINER, "ended": ENDED}),
}


@pytest.mark.parametrize(("tool", "write", "columns"), [(tool, *rest) for tool, rest in OF_IDS.items()], ids=OF_IDS)
def test_the_same_completions_are_the_same_whoever_wrote_them(tmp_path, tool, write, columns):
    path = write(tmp_path)
    rows = files.scan(path)
    assert (rows.reader.NAME, rows.count) == (tool, 4)
    assert column(path, "prompt_token_ids") == PROMPTS
    assert column(path, "completion_token_ids") == COMPLETIONS
    for name in ("policy_logprobs", "rollout_logprobs", "prior_logprobs"):
        assert (name in rows.schema.names) == (name in columns)
        if name in columns:
            assert chosen_only(column(path, name), CHOSEN) == columns[name]
    assert ("action_mask" in rows.schema.names) == ("mask" in columns)
    if "mask" in columns:
        assert column(path, "action_mask") == [[bool(one) for one in row] for row in CHOSEN]
    if "rewards" in columns:
        assert column(path, "rewards") == pytest.approx(REWARDS)
    if "ended" in columns:
        assert column(path, "terminated") == [True, True, False, True]


@pytest.mark.parametrize(("tool", "write", "columns"), [(tool, *rest) for tool, rest in OF_IDS.items()], ids=OF_IDS)
def test_rows_come_in_blocks_of_any_size(tmp_path, monkeypatch, tool, write, columns):
    path = write(tmp_path)
    whole = files.load(path)
    monkeypatch.setattr("esscher.files.blocks.ROWS_AT_ONCE", 1)
    assert files.load(path) == whole
    monkeypatch.setattr("esscher.files.conversion.HELD_BYTES", 0)
    rows = files.scan(path, tool)
    assert rows.held is None
    blocks = list(files.read_blocks(rows, 3))
    assert [(block.first, len(block.table)) for block in blocks] == [(0, 3), (3, 1)]
    joined = pa.concat_tables([block.table for block in blocks])
    assert chosen_only(joined["policy_logprobs"].to_pylist(), CHOSEN) == columns["policy_logprobs"]
    assert joined == whole


def test_a_file_is_read_as_its_user_says(tmp_path):
    path = nemo_rl(tmp_path)
    assert "token_ids" in files.load(path, tool="ours").column_names
    with pytest.raises(ValueError, match=r"'verlox' is no tool whose files are read: .*nemo-rl.* ours"):
        files.scan(path, "verlox")
    row = {"prompt_token_ids": [1], "completion_token_ids": [2], "input": "x", "output": "y", "score": 1, "reward": 2}
    ours = write_lines(tmp_path / "ours.jsonl", [row])
    assert files.scan(ours).reader is None
    assert column(ours, "reward") == [2]


# NeMo-RL.


def test_nemo_rl_s_masks_leave_rows_out_which_are_counted(tmp_path):
    rows = [dumps.nemo_rl(i) for i in range(4)]
    rows[0]["sample_loss_mask"] = [0.0]
    rows[2]["token_loss_mask"] = [[0] * 8]
    path = write_lines(tmp_path / "train_data_step7.jsonl", rows)
    assert column(path, "completion_token_ids") == [COMPLETIONS[1], COMPLETIONS[3]]
    assert column(path, "idx") == [1, 3]
    assert column(path, "step") == [7, 7]
    assert files.scan(path).left_out == {
        "rows that sample_loss_mask leaves out": 1,
        "rows without a token that token_loss_mask keeps": 1,
    }
    none = write_lines(tmp_path / "none.jsonl", [row | {"sample_loss_mask": [0.0]} for row in rows])
    with pytest.raises(ValueError, match=r"none.jsonl is nemo-rl's and has no samples: 4 rows that sample_loss_mask"):
        files.scan(none)


def test_nemo_rl_s_rows_end_with_their_length_and_without_one_with_the_mask(tmp_path):
    row = dumps.nemo_rl(0)
    row["token_loss_mask"][0][4] = 0  # the last of its tokens is not the policy's
    path = write_lines(tmp_path / "train_data_step1.jsonl", [row])
    assert column(path, "completion_token_ids") == [[2, 3, 0]]
    assert column(path, "action_mask") == [[True, True, False]]
    del row["input_lengths"]
    assert column(write_lines(path, [row]), "completion_token_ids") == [[2, 3]]


def test_nemo_rl_s_sampler_alone_is_the_policy(tmp_path):
    rows = [{key: value for key, value in dumps.nemo_rl(i).items() if key != "prev_logprobs"} for i in range(2)]
    path = write_lines(tmp_path / "train_data_step1.jsonl", rows)
    assert column(path, "policy_logprobs") == SAMPLER[:2]
    assert "rollout_logprobs" not in files.scan(path).schema.names


def test_nemo_rl_s_validation_is_conversations(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    more = [*talk, {"role": "tool", "content": "4"}, {"role": "assistant", "content": "Four"}]
    rows = [{"content": [one], "rewards": [reward], "idx": 0} for one, reward in ((talk, 1.0), (more, 0.5))]
    path = write_lines(tmp_path / "val_data_step3.jsonl", rows)
    table = files.load(path)
    assert [json.loads(text) if isinstance(text, str) else text for text in table["prompt"].to_pylist()] == [
        [talk[0]]
    ] * 2
    assert [json.loads(text) for text in table["completion"].to_pylist()] == ["Hello", more[1:]]
    assert table["rewards"].to_pylist() == [1.0, 0.5]
    assert table["step"].to_pylist() == [3, 3]


def test_a_mask_of_another_length_is_an_error_with_its_line(tmp_path):
    rows = [dumps.nemo_rl(i) for i in range(2)]
    rows[1]["token_loss_mask"] = [[0, 1]]
    path = write_lines(tmp_path / "train_data_step1.jsonl", rows)
    with pytest.raises(
        ValueError, match=r"step1.jsonl, line 2: column 'token_loss_mask', row 1 has 2 values, 'token_id"
    ):
        files.scan(path)


# verifiers.


def test_what_failed_has_errors_or_is_not_trained_is_no_sample_of_verifiers(tmp_path):
    rows = [dumps.verifiers(i) for i in range(4)]
    rows[0]["ok"] = False
    rows[1]["traces"][0]["errors"] = [{"type": "Timeout"}]
    rows[2]["traces"][0]["agent"] = {"trainable": False}
    path = write_lines(tmp_path / "traces.jsonl", rows)
    assert column(path, "completion_token_ids") == [COMPLETIONS[3]]
    assert list(files.scan(path).left_out.values()) == [1, 1, 1]


def test_verifiers_rewards_are_weighed_and_each_has_its_column(tmp_path):
    rows = [dumps.verifiers(i) for i in range(4)]
    rows[1]["traces"][0]["rewards"]["right"]["score"] = None
    rows[2]["traces"][0]["rewards"]["short"] = {"score": None, "weight": 0.0}
    path = write_lines(tmp_path / "traces.jsonl", rows)
    assert files.scan(path).rewards == ("right", "short")
    assert column(path, "right") == [REWARDS[0] - 1, None, REWARDS[2] - 1, REWARDS[3] - 1]
    assert column(path, "short") == [2.0, 2.0, None, 2.0]
    assert column(path, "rewards") == [0.5, None, 1.0, 0.0]
    assert column(path, "turns") == [1.0, 1.0, 3.0, 1.0]


def test_each_branch_of_a_trace_is_a_sample(tmp_path):
    row = dumps.verifiers(0)
    nodes = row["traces"][0]["nodes"]
    nodes.append(nodes[1] | {"token_ids": [4], "mask": [True], "logprobs": [-3.0], "trainer_logprobs": [-3.5]})
    nodes[-1] |= {"parent": 0, "reference_logprobs": [-4.0]}
    path = write_lines(tmp_path / "traces.jsonl", [row])
    assert column(path, "completion_token_ids") == [COMPLETIONS[0], [4]]
    assert column(path, "rollout_logprobs") == [SAMPLER[0], [-3.0]]


# vLLM.


def test_requests_that_failed_are_left_out_and_counted(tmp_path):
    failed = dumps.vllm([2, 3]) | {"error": {"message": "too long"}}
    busy = dumps.vllm([2, 3])
    busy["response"] = {"status_code": 503, "body": {"error": "busy"}}
    empty = dumps.vllm([2])
    empty["response"]["body"]["choices"][0] |= {"token_ids": [], "logprobs": None}
    path = write_lines(tmp_path / "out.jsonl", [dumps.vllm([0, 1]), failed, busy, empty])
    assert column(path, "completion_token_ids") == COMPLETIONS[:2]
    assert files.scan(path).left_out == {"requests that failed": 2, "choices without a token": 1}


def test_prompt_logprobs_over_prompt_and_completion_are_the_prior_s(tmp_path):
    ids = [*PROMPTS[1], *COMPLETIONS[1]]
    places = [None, *({str(token): {"logprob": -float(i)}, "9": {"logprob": -7}} for i, token in enumerate(ids[1:], 1))]
    places[-1] = {str(ids[-1]): {"logprob": -9999.0}}
    path = write_lines(tmp_path / "out.jsonl", [dumps.vllm([1], prompt_logprobs=places)])
    assert column(path, "prior_logprobs") == [[-2.0, -math.inf]]
    path = write_lines(tmp_path / "prompts.jsonl", [dumps.vllm([1], prompt_logprobs=places[:2])])
    assert "prior_logprobs" not in files.scan(path).schema.names


def test_bodies_of_completions_are_read_with_ids_told_as_tokens(tmp_path):
    logprobs = {"tokens": [f"token_id:{token}" for token in COMPLETIONS[0]], "token_logprobs": TRAINER[0]}
    choice = {"index": 0, "text": "x", "logprobs": logprobs, "finish_reason": "stop", "prompt_token_ids": PROMPTS[0]}
    path = write_lines(tmp_path / "bodies.jsonl", [{"object": "text_completion", "choices": [choice]}] * 2)
    assert column(path, "completion_token_ids") == [COMPLETIONS[0]] * 2
    assert column(path, "prompt_token_ids") == [PROMPTS[0]] * 2
    assert column(path, "policy_logprobs") == [TRAINER[0]] * 2
    assert column(path, "completion") == ["x", "x"]


# verl.


def test_verl_s_score_is_the_reward_and_numbers_may_be_text(tmp_path):
    rows = [
        {"input": "a", "output": "b", "gts": None, "score": score, "step": 4, "acc": "1.0", "mask": "m", "uid": uid}
        for score, uid in (("0.5", "p_x_0_0"), (None, "p_x_1_0"), ([0.25, 0.25], "q_0_0"), ("high", "q_1_0"))
    ]
    path = write_lines(tmp_path / "4.jsonl", rows)
    assert files.scan(path).reader.NAME == "verl"
    assert column(path, "rewards") == [0.5, None, 0.5, None]
    assert column(path, "prompt_id") == ["p_x", "p_x", "q", "q"]
    # Not taken for a mask of ours.
    assert column(path, "verl/mask") == ["m"] * 4
    assert (column(path, "prompt"), column(path, "completion"), column(path, "step")) == (["a"] * 4, ["b"] * 4, [4] * 4)
    del rows[0]["uid"], rows[0]["step"]
    path = write_lines(tmp_path / "12.jsonl", rows[:1])
    assert column(path, "step") == [12]
    assert "prompt_id" not in files.scan(path).schema.names


# TRL.


PAIRS, TRIPLES = ["p", "p", "q", "q", "r", "r"], ["p", "p", "p", "q", "q", "q"]


def trl(folder, prompts, scale, **columns):
    """Write completions with the advantages that TRL makes of two rewards, and what else is given, behind these."""
    first, second = np.array([0.0, 1.0, 2.0, 4.0, 3.0, 0.5]), np.array([1.0, 0.0, 0.0, 1.0, 2.0, 0.0])
    total, advantage = first + second, np.zeros(6)
    for prompt in set(prompts):
        of = np.array([one == prompt for one in prompts])
        spread = {"none": 1.0, "group": total[of].std(ddof=1) + 1e-4, "batch": total.std(ddof=1) + 1e-4, "other": 3.0}
        advantage[of] = (total[of] - total[of].mean()) / spread[scale]
    table = {"step": [5] * 6, "prompt": prompts, "completion": list("abcdef"), "first": first, "second": second}
    path = folder / "completions_00005.parquet"
    pq.write_table(pa.table({**table, **columns, "advantage": advantage.astype(np.float32).astype(float)}), path)
    return path


@pytest.mark.parametrize(
    ("prompts", "scale"), [(PAIRS, "none"), (PAIRS, "group"), (PAIRS, "batch"), (TRIPLES, "group"), (TRIPLES, "other")]
)
def test_trl_s_reward_is_the_sum_of_those_that_make_the_advantage(tmp_path, prompts, scale):
    path = trl(tmp_path, prompts, scale, entropy=[3.0, 1.0, 2.0, 2.5, 0.0, 9.0], letters=[1] * 6)
    rows = files.scan(path)
    assert (rows.reader.NAME, rows.rewards) == ("trl", ("first", "second"))
    assert column(path, "rewards") == [1.0, 1.0, 2.0, 5.0, 5.0, 0.5]
    assert column(path, "entropy") == [3.0, 1.0, 2.0, 2.5, 0.0, 9.0]
    assert column(path, "step") == [5] * 6


def test_trl_adds_what_is_known_and_a_row_without_rewards_has_none(tmp_path):
    path = tmp_path / "completions_00001.parquet"
    table = {"step": [1] * 3, "prompt": ["p"] * 3, "completion": ["a"] * 3, "one": [1.0, None, None]}
    pq.write_table(pa.table({**table, "two": [1.0, 2.0, None], "advantage": [0.0] * 3}), path)
    assert column(path, "rewards") == [2.0, 2.0, None]


def test_trl_s_conversations_are_kept(tmp_path):
    talk = [{"role": "user", "content": "p"}]
    path = tmp_path / "completions_00001.parquet"
    table = {"step": [1], "prompt": [talk], "completion": [[{"role": "assistant", "content": "a"}]], "f": [1.0]}
    pq.write_table(pa.table({**table, "advantage": [0.0]}), path)
    assert column(path, "prompt") == [talk]


# Whatever the tool.


@pytest.mark.parametrize("write", [nemo_rl, verifiers])
def test_the_engines_of_a_trainer_are_compared_with_its_masks(tmp_path, write):
    found = files.read_logprobs([write(tmp_path)])
    assert [row.tolist() for row in found.train] == TRAINER
    assert [row.tolist() for row in found.rollout] == SAMPLER
    assert found.groups.sizes.tolist() == [2, 2]
    assert found.masks == ("action_mask",)


def test_what_is_wrong_in_a_converted_row_has_the_line_of_the_file(tmp_path):
    rows = [dumps.vllm([0, 1]), dumps.vllm([2, 3])]
    rows[1]["response"]["body"]["choices"][1]["token_ids"] = [4, 3, -2, 0]
    path = write_lines(tmp_path / "out.jsonl", rows)
    with pytest.raises(ValueError, match=r"out.jsonl, line 2: column 'completion_token_ids', row 3, token 2 is -2"):
        files.read(path)


def test_spread_is_what_it_says():
    assert spread([1, 2], [0, 1, 0, 1], None) == [None, 1, None, 2]


# prime-rl.


def test_prime_rl_s_numbers_that_are_not_finite_matter_only_where_they_count(tmp_path):
    path = write_lines(tmp_path / "step_3" / "rank_0.jsonl", [dumps.prime_rl(i) for i in range(4)])
    assert files.scan(path).reader.NAME == "prime-rl"
    assert column(path, "completion_token_ids") == COMPLETIONS
    assert chosen_only(column(path, "policy_logprobs"), CHOSEN) == TRAINER
    assert chosen_only(column(path, "rollout_logprobs"), CHOSEN) == SAMPLER
    # null at what a tool said, and nowhere else
    assert column(path, "policy_logprobs")[2][1:3] == [0.0, 0.0]
    assert chosen_only(column(path, "policy_entropy"), CHOSEN) == [[0.5] * len(row) for row in TRAINER]
    rows = [dumps.prime_rl(i) for i in range(2)]
    rows[1]["trainer_logprobs"][-1] = None
    path = write_lines(path, [{key: value for key, value in row.items() if key != "step"} for row in rows])
    assert column(path, "step") == [3, 3]
    with pytest.raises(ValueError, match=r"rank_0.jsonl, line 2: column 'policy_logprobs', row 1 holds a null"):
        files.read(path)
    assert np.isnan(files.read_logprobs([path]).train.values).sum() == 1


# open-instruct.


def test_open_instruct_s_rows_with_tools_are_left_out_since_no_mask_tells_them(tmp_path):
    rows = [dumps.open_instruct(i, step) for step in (1, 2) for i in range(4)]
    rows[2] |= {"request_info": {"tool_calleds": True, "tool_outputs": "4"}}
    rows[3] |= {"request_info": {"tool_calleds": False, "tool_outputs": ""}, "reward": None}
    rows[4]["response_tokens"] = []
    path = write_lines(tmp_path / "run_rollouts_000000.jsonl", rows)
    assert list(files.scan(path).left_out.values()) == [1, 1]
    assert column(path, "prompt_id") == ["1/0", "1/0", "1/1", "2/0", "2/1", "2/1"]
    assert column(path, "step") == [1, 1, 1, 2, 2, 2]
    assert column(path, "rewards") == [*REWARDS[:2], None, *REWARDS[1:]]
    assert column(path, "terminated") == [True, True, True, True, False, True]
    assert column(path, "sample_idx") == [0, 1, 3, 1, 2, 3]
    dump = files.read(path, step=1)
    assert [len(row) for row in dump.samples.policy_logprobs] == [3, 2]
    assert "1 completions without a reward" in " ".join(dump.warnings)


def test_open_instruct_without_log_probs_has_none(tmp_path):
    path = write_lines(tmp_path / "x_rollouts_0.jsonl", [dumps.open_instruct(i, logprobs=None) for i in range(4)])
    assert files.read(path).samples.columns == ("rewards", "terminated")


# SkyRL and AReaL.


def test_skyrl_s_scores_may_be_lists_and_its_step_is_in_the_path(tmp_path):
    scores = [0.5, [0.0, 0.0, 1.0], None]
    rows = [
        {"input_prompt": "a", "output_response": "b", "score": score, "stop_reason": reason, "env_extras": {}}
        for score, reason in zip(scores, ["stop", "length", None], strict=True)
    ]
    path = write_lines(tmp_path / "dumped_evals" / "global_step_20_evals" / "math.jsonl", rows)
    assert files.scan(path).reader.NAME == "skyrl"
    assert column(path, "rewards") == [0.5, 1.0, None]
    assert column(path, "terminated") == [True, False, None]
    assert column(path, "step") == [20] * 3
    assert column(path, "prompt") == ["a"] * 3


def test_areal_s_step_is_the_last_version_that_sampled(tmp_path):
    rows = [
        {"task_id": 7, "sample_idx": i, "seqlen": 9, "prompt_len": 4, "head_version": 1, "tail_version": 3}
        | {"reward": 1.0 * i, "prompt": "p", "completion": "c"}
        for i in range(2)
    ]
    path = write_lines(tmp_path / "rollout" / "3" / "7.jsonl", rows)
    assert files.scan(path).reader.NAME == "areal"
    assert column(path, "step") == [3, 3]
    assert column(path, "prompt_id") == ["7", "7"]
    assert column(path, "rewards") == [0.0, 1.0]
    assert column(path, "prompt_len") == [4, 4]


# ms-swift.


def test_each_line_of_ms_swift_is_a_table(tmp_path):
    tables = [
        {
            "step": [str(step)] * 2,
            "prompt": ["p", "q"],
            "completion": ["a", "b"],
            "format": [1.0, None],
            "accuracy": [0.5, None],
            "advantages": [0.1, -0.1],
            "entropy": [2.0],
        }
        for step in (1, 2)
    ]
    path = write_lines(tmp_path / "completions.jsonl", tables)
    rows = files.scan(path)
    assert (rows.reader.NAME, rows.count, rows.rewards) == ("ms-swift", 4, ("format", "accuracy"))
    assert column(path, "completion") == ["a", "b"] * 2
    assert column(path, "rewards") == [1.5, None] * 2
    assert column(path, "step") == [1, 1, 2, 2]
    assert column(path, "entropy") == [2.0, None] * 2
    assert column(path, "advantages") == [0.1, -0.1] * 2
    assert rows.line_of(2) == 2
    megatron = [{("gen_step" if key == "step" else key): value for key, value in table.items()} for table in tables]
    assert column(write_lines(tmp_path / "m.jsonl", megatron), "step") == [1, 1, 2, 2]


# lm-eval.


def lm_eval(doc, texts, filtered="all", **columns):
    return {
        "doc_id": doc,
        "doc": {"question": "x"},
        "target": "t",
        "arguments": {"gen_args_0": {"arg_0": f"prompt {doc}", "arg_1": {"until": ["\n"]}}},
        "resps": [texts],
        "filtered_resps": texts[:1],
        "filter": filtered,
        "metrics": ["exact_match"],
        "exact_match": 1.0,
        **columns,
    }


def test_lm_eval_s_repeats_are_completions_of_each_document_once(tmp_path):
    rows = [lm_eval(doc, [f"{doc}a", f"{doc}b"], one) for one in ("strict", "flexible") for doc in (0, 1)]
    path = write_lines(tmp_path / "samples_task_2026.jsonl", rows)
    assert column(path, "completion") == ["0a", "0b", "1a", "1b"]
    assert column(path, "prompt") == ["prompt 0"] * 2 + ["prompt 1"] * 2
    assert column(path, "prompt_id") == ["0", "0", "1", "1"]
    # The metric is of the first text alone, and no reward unless it is named.
    assert column(path, "exact_match") == [1.0, None, 1.0, None]
    assert "rewards" not in files.scan(path).schema.names
    assert files.scan(path).left_out == {"rows of a further filter": 2}


@pytest.mark.parametrize("size", [1, 3])
def test_lm_eval_s_further_filters_are_left_out_in_later_blocks_too(tmp_path, monkeypatch, size):
    monkeypatch.setattr("esscher.files.blocks.ROWS_AT_ONCE", size)
    rows = [lm_eval(doc, ["x"], one) for one in ("strict", "flexible") for doc in range(4)]
    assert files.scan(write_lines(tmp_path / "samples_task_2026.jsonl", rows)).count == 4


def test_lm_eval_s_scored_choices_are_no_samples_and_conversations_are(tmp_path):
    choices = [[["-12.3", "False"]], [["-inf", "True"]]]
    path = write_lines(tmp_path / "samples_choice_2026.jsonl", [lm_eval(0, []) | {"resps": choices}])
    with pytest.raises(ValueError, match=r"lm-eval's and has no samples: 1 documents of which choices were scored"):
        files.scan(path)
    talk = [{"role": "user", "content": "Hi"}]
    chat = [lm_eval(0, ["x"], arguments=[[json.dumps(talk), {}]]), lm_eval(1, ["y"], arguments=[["plain", {}]])]
    path = write_lines(tmp_path / "samples_chat_2026.jsonl", chat)
    assert [json.loads(text) for text in column(path, "prompt")] == [talk, "plain"]


def prime_rl(folder):
    return write_lines(folder / "step_1" / "rank_0.jsonl", [dumps.prime_rl(i) for i in range(4)])


@pytest.mark.parametrize("write", [nemo_rl, verifiers, prime_rl])
def test_what_a_tool_said_within_a_completion_is_read_and_not_counted(tmp_path, write):
    dump = files.read(write(tmp_path))
    samples = dump.samples
    assert [row.tolist() for row in samples.completions] == COMPLETIONS
    assert [row.tolist() for row in samples.action_mask] == [[bool(one) for one in row] for row in CHOSEN]
    assert [row.tolist() for row in samples.policy_logprobs] == TRAINER
    assert [row.tolist() for row in dump.rollout_logprobs] == SAMPLER
    np.testing.assert_allclose(samples.policy_log_prob, [sum(row) for row in TRAINER])


@pytest.mark.parametrize("write", [nemo_rl, verifiers])
def test_what_was_read_and_written_as_ours_is_the_same(tmp_path, write):
    path = write(tmp_path / "theirs")
    for kind in ("parquet", "jsonl"):
        ours = tmp_path / f"ours.{kind}"
        files.write(files.load(path), ours)
        assert files.scan(ours).reader is None
        one, other = files.read(path), files.read(ours)
        assert one.samples.columns == other.samples.columns
        np.testing.assert_array_equal(one.samples.policy_logprobs.values, other.samples.policy_logprobs.values)
        np.testing.assert_array_equal(one.samples.action_mask.values, other.samples.action_mask.values)
        np.testing.assert_array_equal(one.rollout_logprobs.values, other.rollout_logprobs.values)
