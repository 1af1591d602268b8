"""Files of texts alone: with a tokenizer they have ids again, without one what words tell is told."""

from __future__ import annotations

import json

import pytest

from esscher import files
from esscher.cli.text_reading import load_retokeniser
from models import alice_folder
from trainer_dumps import write_lines

ROWS = [
    {"input": "Alice was", "output": output, "gts": None, "score": len(output) / 4, "step": step}
    for step in (1, 2)
    for output in (" so", " very sleepy", "", " very very sleepy")
]


def run(folder):
    for step in (1, 2):
        write_lines(folder / f"{step}.jsonl", [row for row in ROWS if row["step"] == step])
    return folder


def test_a_run_of_texts_is_read_with_a_tokenizer(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="holds texts, not ids, in prompt and completion: give --tokenizer"):
        files.read(tmp_path, step=1)
    texts = load_retokeniser("alice")
    for number, dump in files.read_run(tmp_path, texts=texts):
        assert dump.samples.tokens == "retokenised"
        assert [texts.decode(ids) for ids in dump.samples.completions] == [
            " so",
            " very sleepy",
            "<eos>",
            " very very sleepy",
        ]
        assert texts.decode(dump.samples.prompts[0]) == "Alice was"
        same = files.read(tmp_path, step=number, texts=texts).samples
        assert same.completions.values.tolist() == dump.samples.completions.values.tolist()


def test_evaluate_says_that_ids_are_made_again(tmp_path, esscher):
    run(tmp_path)
    code, out, err = esscher("evaluate", tmp_path / "1.jsonl", "--tokenizer", "alice", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["tokens"], report["counts"]["completions"]) == ("retokenised", 4)
    assert report["unavailable"]["kl"].startswith("the samples lack the columns policy_logprobs")
    code, out, err = esscher("evaluate", tmp_path / "1.jsonl", "--tokenizer", "alice")
    assert "tokens, of texts that were tokenised again" in " ".join(out.split())


def test_words_tell_of_rewards_lengths_and_diversity(tmp_path, esscher):
    run(tmp_path)
    code, out, err = esscher("evaluate", tmp_path / "1.jsonl", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["reward"]["value"] == pytest.approx((3 + 12 + 0 + 17) / 16)
    # The empty one holds what stands for no words.
    assert report["counts"]["tokens"] == 1 + 2 + 1 + 3
    # sleepy, very, so: "very very sleepy" repeats one bigram of another, and is one of three.
    distinct = {one["metric"]: one["within"]["value"] for one in report["diversity"]}
    assert distinct["distinct-2"] == pytest.approx(2 / 3)
    assert report["unavailable"]["kl"] == (
        "texts, not ids: give --tokenizer, and the log-probs of what it makes of them"
    )
    code, out, err = esscher("evaluate", tmp_path / "1.jsonl")
    assert "7 words" in out
    assert "'very sleepy'" in out


def test_score_makes_ids_of_texts_and_says_so(tmp_path, esscher):
    run(tmp_path)
    scored = tmp_path / "scored.parquet"
    arguments = ("score", tmp_path / "1.jsonl", "--prior", alice_folder(), "--output", scored)
    code, _, err = esscher(*arguments)
    assert (code, "holds texts, not ids, in prompt and completion: give --tokenizer" in " ".join(err.split())) == (
        2,
        True,
    )
    code, _, err = esscher(*arguments, "--tokenizer", "alice")
    assert code == 0, err
    dump = files.read(scored, step=1)
    assert dump.samples.tokens == "retokenised"
    assert dump.samples.prior_logprobs is not None
    assert files.load(scored).column("output" if "output" in files.load(scored).column_names else "completion")[0]


def test_ids_that_a_tokenizer_does_not_know_are_refused(tmp_path, esscher):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt_token_ids": [1], "completion_token_ids": [5, 50_000]}])
    code, _, err = esscher("evaluate", path, "--tokenizer", "alice")
    assert code == 2
    assert "completions[0][1] is 50000: the token ids that the tokenizer of alice knows are 0 to 1023" in " ".join(
        err.split()
    )
