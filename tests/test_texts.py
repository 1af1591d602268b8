"""Texts in the place of token ids: what a tokenizer makes of them again, and what words alone tell."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from esscher import Ragged, Samples, files
from esscher.files.text_columns import WordNumbers, with_token_ids
from esscher.lm.transformers import load_tokenizer, locate
from esscher.lm.transformers.retokenising import Retokeniser
from models import alice, alice_folder

TEMPLATE = (
    "{% for message in messages %}({{ message.role }}) {{ message.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}(assistant) {% endif %}"
)
# A template that forgets what it made of earlier messages.
FORGETFUL = (
    "{% for message in messages %}{% if loop.last %}({{ message.role }}) {{ message.content }}{% endif %}{% endfor %}"
)


def said(role, content):
    return {"role": role, "content": content}


@pytest.fixture
def tokenizer():
    return load_tokenizer(locate(alice_folder()))


def test_a_text_is_what_the_tokenizer_makes_of_it(tokenizer):
    prompt, ids, chosen = Retokeniser("alice", tokenizer).read("Alice was", " beginning to get very tired")
    assert prompt == tokenizer.encode("Alice was")
    assert ids == tokenizer.encode(" beginning to get very tired", add_special_tokens=False)
    assert chosen == [True] * len(ids)


def test_most_completions_give_their_ids_again_and_not_all(tokenizer):
    """A model may spell a text in other pieces than its tokenizer does: of sampled ids, some do not come back."""
    lm, reader = alice(), Retokeniser("alice", tokenizer)
    drawn = lm.sample(lm.encode(["Alice was", "Off with"]), 16, 24, np.random.default_rng(0))
    rows = [row for row, ended in zip(drawn.completions, drawn.terminated, strict=True) if not ended]
    same = [reader.read("", text)[1] == row.tolist() for row, text in zip(rows, lm.decode(rows), strict=True)]
    assert 0.3 < np.mean(same) < 1


def test_a_start_token_is_put_before_a_prompt_once(tokenizer):
    tokenizer.add_bos_token = True
    start = tokenizer.bos_token_id
    from tokenizers.processors import TemplateProcessing

    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", start)])
    reader = Retokeniser("alice", tokenizer)
    once, again = reader.read("Alice", " was")[0], reader.read("<bos>Alice", " was")[0]
    assert once == again
    assert once.count(start) == 1
    assert start not in reader.read("Alice", " was")[1]


def test_a_completion_without_text_is_an_end_token(tokenizer):
    reader = Retokeniser("alice", tokenizer)
    assert reader.read("Alice", "")[1:] == ([tokenizer.eos_token_id], [True])
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="a completion is empty, and alice has no end token"):
        reader.read("Alice", "")


def test_a_conversation_goes_through_the_chat_template(tokenizer):
    tokenizer.chat_template = TEMPLATE
    prompt, ids, chosen = Retokeniser("alice", tokenizer).read(
        [said("user", "Two and two?")],
        [said("assistant", "Let me ask."), said("tool", "4"), said("assistant", "It is 4.")],
    )
    assert tokenizer.decode(prompt) == "(user) Two and two?<eos>\n(assistant) "
    pieces = [
        tokenizer.decode([t for t, own in zip(ids, chosen, strict=True) if own is kept]) for kept in (True, False)
    ]
    # The end token is the policy's; the line break behind it, the tool's words and the next header are not.
    assert pieces == ["Let me ask.<eos>It is 4.<eos>", "\n(tool) 4<eos>\n(assistant) "]
    assert chosen[-1]


def test_a_single_message_is_its_text(tokenizer):
    tokenizer.chat_template = TEMPLATE
    reader = Retokeniser("alice", tokenizer)
    prompt = [said("user", "Hi")]
    assert reader.read(prompt, [said("assistant", "Oh dear!")]) == reader.read(prompt, "Oh dear!")


def test_where_the_policy_says_nothing_nothing_is_its_own(tokenizer):
    tokenizer.chat_template = TEMPLATE
    ids, chosen = Retokeniser("alice", tokenizer).read([said("user", "Hi")], [said("tool", "4"), said("tool", "5")])[1:]
    assert ids
    assert chosen == [False] * len(ids)


def test_conversations_that_cannot_be_told_are_refused(tokenizer):
    reader = Retokeniser("alice", tokenizer)
    with pytest.raises(ValueError, match="there is a conversation, and alice has no chat template"):
        reader.read([said("user", "Hi")], "Oh")
    several = [said("assistant", "a"), said("tool", "b"), said("assistant", "c")]
    with pytest.raises(ValueError, match="the completion is a conversation, and its prompt is none"):
        reader.read("Hi", several)
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(ValueError, match="changes what it made of earlier messages when message 0 comes"):
        Retokeniser("alice", tokenizer).read([said("user", "Hi")], several)


def test_words_are_numbered_in_order_of_appearance():
    words = WordNumbers()
    assert words.read("The Queen said", "Off, off!") == ([1, 2, 3], [4, 5, 6, 7], [True] * 4)
    # Another file's same word is the same number, and what a tool says is not the policy's.
    talk = [said("assistant", "Off"), said("tool", "The"), said("assistant", [{"type": "text", "text": "said"}])]
    assert words.read("", talk) == ([], [4, 1, 3], [True, False, True])
    assert words.read("", [said("tool", "said")]) == ([], [3, 0], [False, True])


def test_texts_become_columns_of_ids_with_what_they_are():
    table = pa.table({"prompt": ["a b", None], "completion": ["c d c", ""], "rewards": [1.0, 2.0]})
    found = with_token_ids(table, WordNumbers())
    assert found.column("completion_token_ids").to_pylist() == [[3, 4, 3], [0]]
    assert found.column("tokens").to_pylist() == ["words", "words"]
    assert found.column("action_mask").to_pylist() == [[True] * 3, [True]]
    with pytest.raises(files.RowError, match="column 'completion', row 8 is null: every row needs a text"):
        with_token_ids(pa.table({"prompt": ["a", "a"], "completion": ["b", None]}), WordNumbers(), first=7)
    image = pa.table({"prompt": ["a"], "completion": [[{"role": "assistant", "content": [{"type": "image"}]}]]})
    with pytest.raises(
        files.RowError, match="row 0 has texts that cannot be read: a message has a part of type 'image'"
    ):
        with_token_ids(image, WordNumbers())


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_say_what_their_ids_are(tmp_path, kind):
    rows = {"prompts": Ragged.from_rows([[1]]), "completions": Ragged.from_rows([[5, 6]]), "groups": [0, 1]}
    for tokens in ("sampled", "retokenised", "words"):
        path = tmp_path / f"{tokens}.{kind}"
        files.write(files.to_table(Samples(**rows, tokens=tokens)), path)
        assert files.read(path).samples.tokens == tokens
    both = [tmp_path / f"{tokens}.{kind}" for tokens in ("sampled", "words")]
    with pytest.raises(ValueError, match=r"parts\[1\] has words tokens, parts\[0\] sampled: they must agree"):
        files.read(both)


def test_a_column_called_tokens_may_be_anything_else(tmp_path):
    row = '{"prompt_token_ids": [1], "completion_token_ids": [5], "tokens": %s}'
    for value in ('["a"]', '"abc"', "7", "null"):
        path = tmp_path / "rows.jsonl"
        path.write_text(row % value)
        assert files.read(path).samples.tokens == "sampled"
