"""Texts become ids again: what is whose in a conversation, and that nothing is put before or behind texts."""

from __future__ import annotations

import json

import pytest

from esscher import files
from esscher.files.retokenising import retokenise
from esscher.lm.packaged import resolve
from esscher.lm.transformers import load_tokenizer, locate
from trainer_dumps import write_lines


class Letters:
    """A tokenizer whose ids are letters, and whose template puts each message between < and >, its role before it."""

    def __init__(self, think=""):
        self.think = think

    def encode(self, text, *, add_special_tokens):
        assert not add_special_tokens
        return [ord(letter) for letter in text]

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt):
        assert not tokenize
        last = len(conversation) - 1
        told = [
            f"<{one['role'][0]}{self.think * (i == last)}{one['content']}>" for i, one in enumerate(conversation)
        ]
        return "".join(told) + "<a" * add_generation_prompt


def text(ids):
    return "".join(map(chr, ids))


def turn(role, content):
    return {"role": role, "content": content}


def test_texts_are_taken_as_they_are():
    made = retokenise(Letters(), "<s>How", " so>")
    assert (text(made.prompt), text(made.completion), made.chosen) == ("<s>How", " so>", [True] * 4)
    assert retokenise(Letters(), None, "x").prompt == []


def test_of_a_conversation_the_policy_wrote_what_the_assistant_says():
    talk = [turn("assistant", "12"), turn("tool", "3"), turn("assistant", "4")]
    made = retokenise(Letters(), [turn("user", "Hi")], talk)
    assert text(made.prompt) == "<uHi><a"
    assert text(made.completion) == "12><t3><a4>"
    assert text(token for token, own in zip(made.completion, made.chosen, strict=True) if own) == "12>4>"
    # A completion that is a text is the assistant's.
    assert retokenise(Letters(), [turn("user", "Hi")], "12") == retokenise(Letters(), [turn("user", "Hi")], talk[:1])


def test_a_template_that_changes_earlier_messages_is_an_error():
    talk = [turn("assistant", "1"), turn("tool", "2")]
    with pytest.raises(ValueError, match="the chat template writes earlier messages otherwise when later ones follow"):
        retokenise(Letters(think="..."), [turn("user", "Hi")], talk)


def test_a_run_of_texts_is_read_with_a_tokenizer(tmp_path):
    rows = [
        {"input": "Alice was", "output": output, "gts": None, "score": 1.0, "step": step}
        for step in (1, 2)
        for output in (" so", " very sleepy", "")
    ]
    for step in (1, 2):
        write_lines(tmp_path / f"{step}.jsonl", [row for row in rows if row["step"] == step])
    with pytest.raises(ValueError, match="holds texts, not ids, in prompt and completion: give --tokenizer"):
        files.read(tmp_path, step=1)
    tokenizer = load_tokenizer(locate(resolve("alice")))
    for number, dump in files.read_run(tmp_path, tokenizer=tokenizer):
        assert dump.order.tolist() == [0, 1]
        assert [tokenizer.decode(ids) for ids in dump.samples.completions] == [" so", " very sleepy"]
        assert tokenizer.decode(dump.samples.prompts[0]) == "Alice was"
        assert [warning.code for warning in dump.warnings] == ["left-out"]
        same = files.read(tmp_path, step=number, tokenizer=tokenizer).samples
        assert same.completions.values.tolist() == dump.samples.completions.values.tolist()


def test_evaluate_reads_texts_with_a_tokenizer(tmp_path, esscher):
    rows = [{"input": "Alice was", "output": f" so {i}", "gts": None, "score": i, "step": 1} for i in range(4)]
    path = write_lines(tmp_path / "1.jsonl", rows)
    code, out, err = esscher("evaluate", path, "--tokenizer", "alice", "--json")
    assert code == 0, err
    assert json.loads(out)["reward"]["value"] == 1.5
