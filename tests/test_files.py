"""Files of samples: what is read, what is refused and how it is said, and that rows come back as they went."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esscher import Ragged, Samples, files
from strategies import logprob

SUFFIXES = (".parquet", ".jsonl")
TOKEN_COLUMNS = ("policy_logprobs", "prior_logprobs", "token_kl", "policy_entropy")
ROW = {"prompt_token_ids": [1, 2], "completion_token_ids": [5, 6, 7], "rewards": 0.5}


@st.composite
def samples(draw):
    groups = np.cumsum([0, *draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))])
    n = int(groups[-1])
    lengths = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    total = sum(lengths)
    token = st.integers(0, 2**32 - 1)

    def column(values, dtype=np.float32):
        return Ragged.from_lengths(np.array(draw(st.lists(values, min_size=total, max_size=total)), dtype), lengths)

    prompts = draw(st.lists(st.lists(token, max_size=3), min_size=len(groups) - 1, max_size=len(groups) - 1))
    positive = st.floats(0, 1e6)
    makers = {name: logprob if "logprobs" in name else positive for name in TOKEN_COLUMNS}
    known = {name: column(values) for name, values in makers.items() if draw(st.booleans())}
    rewards = st.lists(st.floats(allow_nan=False, max_value=1e300, allow_infinity=False), min_size=n, max_size=n)
    if draw(st.booleans()):
        known["rewards"] = np.where(draw(st.booleans()), -np.inf, draw(rewards))
    if draw(st.booleans()):
        known["terminated"] = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return Samples(Ragged.from_rows(prompts, np.uint32), column(token, np.uint32), groups, **known)


def assert_same(one, other):
    assert one.columns == other.columns
    for name in ("prompts", "completions", *one.columns):
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, Ragged):
            np.testing.assert_array_equal(a.offsets, b.offsets, err_msg=name)
            assert a.values.dtype == b.values.dtype or not len(a.values), name
            a, b = a.values, b.values
        np.testing.assert_array_equal(a, b, err_msg=name)
    np.testing.assert_array_equal(one.groups, other.groups)


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


# What goes out comes back.


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_samples_come_back_from_a_file_as_they_were(tmp_path_factory, suffix, data):
    original = data.draw(samples())
    path = tmp_path_factory.mktemp("files") / f"samples{suffix}"
    files.write(files.to_table(original), path)
    dump = files.read(path)
    assert_same(original, dump.samples)
    np.testing.assert_array_equal(dump.order, np.arange(len(original)))


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_rows_in_any_order_keep_it_and_their_samples_are_the_same(tmp_path_factory, suffix, data):
    original = data.draw(samples())
    order = np.array(data.draw(st.permutations(range(len(original)))))
    path = tmp_path_factory.mktemp("files") / f"samples{suffix}"
    table = files.to_table(original).take(order).append_column("text", pa.array([f"row {i}" for i in order]))
    files.write(table, path)
    dump, rows = files.read(path), files.load(path)
    assert rows.column("text").to_pylist() == [f"row {i}" for i in order]
    # Completion i of the samples is row order[i] of the file.
    for i, row in enumerate(dump.order):
        assert dump.samples.completions[i].tolist() == rows.column("completion_token_ids")[int(row)].as_py()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_new_columns_go_to_the_rows_that_they_were_computed_for(data):
    original = data.draw(samples())
    order = np.array(data.draw(st.permutations(range(len(original)))))
    table = files.to_table(original).select(["prompt_token_ids", "completion_token_ids"]).take(order)
    names = files.names_of({"prior_logprobs": "new"}, ())
    grouped, rows = files.grouped(files.completions(files.Block(0, table), names))
    assert len(set(map(bytes, grouped.prompts))) == len(grouped.prompts)
    # What a token gets tells which it is.
    new = Ragged(-grouped.completions.values.astype(np.float32), grouped.completions.offsets)
    filled = dataclasses.replace(grouped, prior_logprobs=new, rewards=grouped.completions.lengths)
    columns = files.to_columns(filled, rows, {"prior_logprobs": "new", "rewards": "length"})
    scored = files.with_columns(table, columns)
    assert scored.select(table.column_names).equals(table)
    for row in scored.to_pylist():
        assert row["new"] == np.float32([-float(token) for token in row["completion_token_ids"]]).tolist()
        assert row["length"] == len(row["completion_token_ids"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_infinities_nulls_and_other_columns_come_back(tmp_path, suffix):
    table = pa.table(
        {
            "prompt_token_ids": [[1], [1]],
            "completion_token_ids": [[5, 6], [7]],
            "policy_logprobs": pa.array([[-np.inf, -0.5], [-(2.0**-10)]], pa.list_(pa.float32())),
            "rewards": [-np.inf, 0.1],
            "text": ['says "-1e999", 1e999 \\ and \n\x00 <b>', None],
            "when": ["2026-01-01", "2026-01-02T00:00:00Z"],
            "extra": [{"a": [1, None], "b": "2026-01-01"}, None],
            "gain": [np.inf, None],
            "nested": [[[1.5], None], []],
            "none": [[None], [1]],
        }
    )
    path = tmp_path / f"rows{suffix}"
    files.write(table, path)
    assert files.load(path).to_pylist() == table.to_pylist()
    np.testing.assert_array_equal(
        files.read(path).samples.policy_logprobs.values, np.float32([-np.inf, -0.5, -(2.0**-10)])
    )


def test_json_lines_are_valid_json_with_infinities_as_numbers_that_overflow(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.write(pa.table({"x": [[-np.inf, 1.0]], "y": [np.inf], "z": pa.array([np.inf], pa.float16())}), path)
    assert path.read_text() == '{"x":[-1e999,1],"y":1e999,"z":1e999}\n'

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {"x": [-np.inf, 1.0], "y": np.inf, "z": np.inf}


def test_python_s_own_infinities_are_read(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ROW | {"prior_logprobs": [-np.inf, -1.0, -2.0]})
    assert "-Infinity" in path.read_text()
    assert files.read(path).samples.prior_logprobs[0].tolist() == [-np.inf, -1.0, -2.0]


def test_lists_of_every_kind_and_slices_of_them_are_read(tmp_path):
    ids = [[9, 9], [1, 2], [3, 4], [9, 9]]
    kinds = [pa.list_(pa.int64()), pa.large_list(pa.uint16()), pa.list_(pa.int32(), 2), pa.list_(pa.int8())]
    for i, kind in enumerate(kinds):
        column = pa.chunked_array([pa.array(ids, kind).slice(1, 1), pa.array(ids, kind).slice(2, 1)])
        path = parquet(tmp_path / f"{i}.parquet", prompt_token_ids=[[1], [2]], completion_token_ids=column)
        assert files.read(path).samples.completions.values.tolist() == [1, 2, 3, 4]


def test_rows_that_an_in_memory_slice_leaves_out_stay_out():
    from esscher.files.columns import token_ids

    column = pa.chunked_array([pa.array([[9], [1, 2], [], [3]], pa.list_(pa.int64())).slice(1)])
    rows = token_ids("ids", column)
    assert rows.values.tolist() == [1, 2, 3]
    assert rows.lengths.tolist() == [2, 0, 1]


# Grouping.


def test_rows_with_one_prompt_id_are_grouped_in_order_of_first_appearance(tmp_path):
    prompts = {"b": [1], "a": [2]}
    rows = [{"prompt_id": p, "prompt_token_ids": prompts[p], "completion_token_ids": [i]} for i, p in enumerate("babb")]
    dump = files.read(write_rows(tmp_path / "rows.jsonl", *rows))
    assert dump.samples.prompts.values.tolist() == [1, 2]
    assert dump.samples.groups.tolist() == [0, 3, 4]
    assert dump.order.tolist() == [0, 2, 3, 1]


def test_without_prompt_id_equal_prompt_tokens_are_one_prompt(tmp_path):
    rows = [{"prompt_token_ids": p, "completion_token_ids": [i]} for i, p in enumerate([[1, 2], [1], [1, 2], []])]
    dump = files.read(write_rows(tmp_path / "rows.jsonl", *rows))
    assert [row.tolist() for row in dump.samples.prompts] == [[1, 2], [1], []]
    assert dump.order.tolist() == [0, 2, 1, 3]


def test_prompt_ids_with_equal_tokens_stay_apart(tmp_path):
    rows = [ROW | {"prompt_id": i} for i in (7, 8)]
    assert len(files.read(write_rows(tmp_path / "rows.jsonl", *rows)).samples.prompts) == 2


def test_prompts_are_shared_across_files_and_files_are_told_one_by_one(tmp_path):
    first = write_rows(tmp_path / "1.jsonl", ROW, ROW | {"prompt_token_ids": [3]})
    second = parquet(tmp_path / "2.parquet", **{name: [value] for name, value in ROW.items()})
    seen = []
    dump = files.read([first, second], progress=seen.append)
    assert seen == [str(first), str(second)]
    assert dump.samples.groups.tolist() == [0, 2, 3]
    assert dump.order.tolist() == [0, 2, 1]


def test_whole_rewards_in_one_file_join_fractions_in_another(tmp_path):
    paths = [write_rows(tmp_path / f"{r}.jsonl", ROW | {"rewards": r}) for r in (1, 0.5)]
    assert files.read(paths).samples.rewards.tolist() == [1.0, 0.5]


def test_reward_stands_for_rewards_that_are_not_there(tmp_path):
    theirs = write_rows(tmp_path / "theirs.jsonl", {("reward" if k == "rewards" else k): v for k, v in ROW.items()})
    both = write_rows(tmp_path / "both.jsonl", ROW | {"rewards": 2.0, "reward": "none of ours"})
    assert files.read([theirs, both]).samples.rewards.tolist() == [0.5, 2.0]
    ended = write_rows(tmp_path / "ended.jsonl", {k: v for k, v in ROW.items() if k != "rewards"} | {"reward": 1})
    assert files.read(ended, columns={"terminated": "reward"}).samples.rewards is None


def test_columns_go_by_the_names_one_gives(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ROW | {"score": 2.0})
    assert files.read(path, columns={"rewards": "score"}).samples.rewards.tolist() == [2.0]


def test_prompt_ids_are_in_every_file_or_in_none(tmp_path):
    row = {"prompt_token_ids": [1], "completion_token_ids": [7, 8]}
    with_ids, without = tmp_path / "with.jsonl", tmp_path / "without.jsonl"
    with_ids.write_text("\n".join(json.dumps(row | {"prompt_id": i}) for i in range(2)))
    without.write_text("\n".join(json.dumps(row | {"prompt_id": None}) for _ in range(2)))
    assert len(files.read(with_ids).samples.prompts) == 2
    assert len(files.read([without, without]).samples.prompts) == 1
    with pytest.raises(ValueError, match=r"without\.jsonl, line 1: column 'prompt_id', row 0 is null"):
        files.read([with_ids, without])
    lacking = write_rows(tmp_path / "lacking.jsonl", row)
    with pytest.raises(ValueError, match=r"lacking\.jsonl has no column 'prompt_id', .*with\.jsonl has"):
        files.read([with_ids, lacking])


def test_a_null_at_the_very_beginning_is_seen(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"prompt_token_ids": [1], "completion_token_ids": [7, 8], "prompt_logprobs": [None, -1.5]}
    path.write_text("\n".join(json.dumps(row) for _ in range(3)))
    assert files.load(path).column("prompt_logprobs").to_pylist() == [[None, -1.5]] * 3
    path.write_text("\n".join(json.dumps(row | {"policy_logprobs": [None, -1.0]}) for _ in range(3)))
    with pytest.raises(ValueError, match="column 'policy_logprobs', row 0 holds a null"):
        files.read(path)


def test_an_optional_column_of_nothing_but_nulls_is_not_there(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ROW | {"prior_logprobs": None})
    assert files.read(path).samples.columns == ("rewards",)


def test_log_probs_are_held_in_float32(tmp_path):
    path = parquet(tmp_path / "rows.parquet", **{k: [v] for k, v in ROW.items()}, policy_logprobs=[[-0.1, -0.2, 0.0]])
    assert files.read(path).samples.policy_logprobs.values.dtype == np.float32


# What is refused, and how.


def refusal(path, *, columns=None, error=ValueError):
    with pytest.raises(error) as caught:
        files.read(path, columns=columns)
    return str(caught.value)


def test_a_missing_column_is_named_with_what_is_there(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", {"prompt_token_ids": [1], "completion": "x"})
    message = refusal(path)
    assert str(path) in message
    assert "no column 'completion_token_ids'" in message
    assert "It has: prompt_token_ids, completion." in message
    assert "--columns" in message


def test_a_renamed_column_that_is_not_there_is_named(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ROW)
    assert "no column 'score' (read as 'rewards')" in refusal(path, columns={"rewards": "score"})
    assert "'reward', which is none of ours" in refusal(path, columns={"reward": "score"})


BAD_VALUES = {
    "null row": ({"completion_token_ids": None}, "column 'completion_token_ids', row 1 is null"),
    "null token": ({"completion_token_ids": [1, None]}, "column 'completion_token_ids', row 1 holds a null"),
    "null reward": ({"rewards": None}, "column 'rewards', row 1 is null"),
    "negative id": ({"completion_token_ids": [1, -1]}, "column 'completion_token_ids', row 1, token 1 is -1"),
    "large id": ({"completion_token_ids": [2**32]}, "row 1, token 0 is 4294967296"),
    "fractional id": ({"completion_token_ids": [1.5]}, "row 1, token 0 is 1.5: an id is an integer, 0 to"),
    "no tokens": ({"completion_token_ids": []}, "completions[1] has no tokens"),
    "nan reward": ({"rewards": float("nan")}, "rewards[1] is nan"),
    "positive log-prob": ({"policy_logprobs": [-1.0, 0.5, -1.0]}, "policy_logprobs[1][1] is 0.5"),
    "nan log-prob": ({"policy_logprobs": [-1.0, float("nan"), -1.0]}, "policy_logprobs[1][1] is nan"),
    "too few log-probs": ({"policy_logprobs": [-1.0]}, "policy_logprobs row 1 has 1 tokens"),
    "null log-prob": ({"policy_logprobs": [-1.0, None, -1.0]}, "column 'policy_logprobs', row 1 holds a null"),
    "log-probs missing in a row": ({"policy_logprobs": None}, "column 'policy_logprobs', row 1 is null"),
    "huge log-prob": ({"policy_logprobs": [-1.0, -1e39, -1.0]}, "row 1, token 1 is -1e+39: too large for float32"),
    "null prompt": ({"prompt_id": None}, "column 'prompt_id', row 1 is null"),
}


@pytest.mark.parametrize(("change", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_refused_with_file_column_and_row(tmp_path, change, message):
    good = ROW | {"policy_logprobs": [-1.0, -2.0, -0.5], "prompt_id": 1}
    path = write_rows(tmp_path / "rows.jsonl", good, good | change, good)
    said = refusal(path)
    assert said.startswith(f"{path}, line 2: ")
    assert message in said
    as_parquet = tmp_path / "rows.parquet"
    files.write(pa.Table.from_pylist([good, good | change, good]), as_parquet)
    said = refusal(as_parquet)
    assert said.startswith(f"{as_parquet}: ")
    assert message in said


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rewards": ["high"]}, "column 'rewards', row 0 is 'high': it must be a number"),
        ({"rewards": [{"total": 1.0}]}, "column 'rewards' has type struct<total: double>: it must be numbers"),
        ({"terminated": [2]}, "column 'terminated', row 0 is 2: it must be 0 or 1, false or true"),
        ({"terminated": ["maybe"]}, "column 'terminated', row 0 is 'maybe': it must be true or false, or a reason"),
        ({"policy_logprobs": [["a", "b", "c"]]}, "it must be lists of numbers"),
        ({"prompt_id": [1.5]}, "column 'prompt_id', row 0 is 1.5: it must be a string or an integer"),
        ({"prompt_id": [{"a": 1}]}, "column 'prompt_id' has type struct<a: int64>: it must be strings or integers"),
        ({"completion_token_ids": ["text"]}, "has type string: it must be lists of integers"),
    ],
)
def test_a_column_of_the_wrong_type_is_refused(tmp_path, columns, message):
    assert message in refusal(parquet(tmp_path / "x.parquet", **({k: [v] for k, v in ROW.items()} | columns)))


def test_one_prompt_id_with_two_prompts_is_two_prompts(tmp_path):
    rows = [ROW | {"prompt_id": "a"}, ROW | {"prompt_id": "a", "prompt_token_ids": [9]}, ROW | {"prompt_id": "a"}]
    samples = files.read(write_rows(tmp_path / "rows.jsonl", *rows)).samples
    assert [prompt.tolist() for prompt in samples.prompts] == [ROW["prompt_token_ids"], [9]]
    assert samples.groups.tolist() == [0, 2, 3]


def test_a_truncated_parquet_file_is_refused(tmp_path):
    path = parquet(tmp_path / "rows.parquet", **{k: [v] for k, v in ROW.items()})
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path} is not a whole Parquet file" in refusal(path)


def test_a_parquet_file_with_damaged_pages_is_refused(tmp_path):
    path = parquet(tmp_path / "rows.parquet", completion_token_ids=[[1, 2]] * 50, prompt_token_ids=[[1]] * 50)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    assert f"{path} is not a whole Parquet file" in refusal(path)


@pytest.mark.parametrize("line", ['{"prompt_token_ids": [1], "comp', "[1, 2]", "not json", '{"a": 01}'])
def test_a_bad_line_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n" + line + "\n" + json.dumps(ROW) + "\n")
    assert f"{path}, line 3 is " in refusal(path)


def test_lines_that_disagree_on_a_needed_type_are_refused(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ROW, ROW | {"rewards": "high"})
    assert f"{path}, line 2: column 'rewards', row 1 is 'high': it must be a number" in refusal(path)


def test_files_that_are_not_there_empty_or_of_another_kind_are_refused(tmp_path):
    assert "is not there" in refusal(tmp_path / "x.parquet", error=FileNotFoundError)
    (tmp_path / "folder.parquet").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.parquet")
    for suffix in SUFFIXES:
        path = tmp_path / f"empty{suffix}"
        path.touch()
        assert f"{path} is empty" in refusal(path)
    (tmp_path / "blank.jsonl").write_text("\n\n")
    assert "has no rows" in refusal(tmp_path / "blank.jsonl")
    assert "has the suffix '.csv'" in refusal(tmp_path / "x.csv")
    assert "paths is empty" in refusal([])


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".bin", ".pth", ".pickle"])
def test_pickles_are_refused_with_the_reason(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.touch()
    assert "runs code" in refusal(path)
    with pytest.raises(ValueError, match="runs code"):
        files.write(pa.table({"x": [1]}), path)


def test_files_of_which_one_lacks_values_are_refused_by_name(tmp_path):
    first = write_rows(tmp_path / "1.jsonl", ROW)
    second = write_rows(tmp_path / "2.jsonl", ROW | {"rewards": None})
    assert refusal([first, second]).startswith(f"{second} fills no optional column")


# A block at a time.

json_leaf = st.one_of(st.none(), st.integers(-9, 9), st.floats(width=16, allow_nan=False))
# Kinds of values that a column may hold beside each other.
json_values = st.sampled_from(
    [
        json_leaf,
        st.one_of(st.none(), st.booleans()),
        st.sampled_from([None, "2026-01-01", "2026-01-02T00:00:00Z", "text", "1e999", ""]),
        st.lists(json_leaf, max_size=2),
        st.one_of(
            st.none(), st.lists(st.lists(st.one_of(st.none(), st.sampled_from(["2026-01-01", "x"]))), max_size=2)
        ),
        st.dictionaries(st.sampled_from("xyz"), json_leaf, max_size=2),
        st.lists(st.dictionaries(st.sampled_from("xy"), st.lists(json_leaf, max_size=2), max_size=2), max_size=2),
    ]
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_json_lines_in_blocks_are_the_table_of_the_whole_file(tmp_path_factory, data):
    kinds = {name: data.draw(json_values) for name in "abc"}
    row = st.fixed_dictionaries({"id": st.integers(0, 9)}, optional=kinds)
    lines = [json.dumps(one) for one in data.draw(st.lists(row, min_size=1, max_size=12))]
    path = tmp_path_factory.mktemp("files") / "rows.jsonl"
    path.write_text(data.draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(lines))
    size = data.draw(st.integers(1, 5))
    # Of several rows at a time in both passes, as in a large file.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esscher.files.jsonl.BYTES_AT_ONCE", data.draw(st.integers(1, 5)))
        rows = files.scan(path)
        blocks = list(files.read_blocks(rows, size))
    whole = files.load(path)
    assert [block.first for block in blocks] == list(range(0, len(whole), size))
    assert rows.count == len(whole)
    tables = [block.table for block in blocks]
    assert all(table.schema.equals(whole.schema) for table in tables)
    assert pa.concat_tables(tables).to_pylist() == whole.to_pylist()
    one = data.draw(st.sampled_from(whole.column_names))
    parts = pa.concat_tables([block.table for block in files.read_blocks(rows, size, [one])])
    assert parts.to_pylist() == whole.select([one]).to_pylist()


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_parquet_in_blocks_is_the_table_of_the_whole_file(tmp_path, size):
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "ids": pa.array([[i] * (i % 3) for i in range(20)], pa.large_list(pa.uint16())),
            "kind": pa.array([str(i % 4) for i in range(20)]).dictionary_encode(),
            "nested.name": [{"x": i} for i in range(20)],
        },
        metadata={"made": "by hand"},
    )
    pq.write_table(table, path, row_group_size=6)
    rows = files.scan(path)
    assert rows.count == 20
    blocks = list(files.read_blocks(rows, size))
    assert [block.first for block in blocks] == list(range(0, 20, size))
    assert pa.concat_tables([block.table for block in blocks]).equals(files.load(path), check_metadata=True)
    assert next(files.read_blocks(rows, size, ["nested.name"])).table.equals(table.slice(0, size).select([2]))


@pytest.mark.parametrize("line", ['{"a": 1', '{"a": 1}{"a": 2}', "[1]", "not json"])
def test_a_bad_line_is_named_by_its_number_in_the_file(tmp_path, line, monkeypatch):
    monkeypatch.setattr("esscher.files.jsonl.BYTES_AT_ONCE", 2)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n' * 3 + line + "\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 7 is "):
        files.scan(path)


def test_a_parquet_file_that_ends_early_is_refused_in_blocks(tmp_path):
    path = parquet(tmp_path / "rows.parquet", completion_token_ids=[[1, 2]] * 50, prompt_token_ids=[[1]] * 50)
    rows = files.scan(path)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is not a whole Parquet file"):
        list(files.read_blocks(rows, 10))


# Writing.


def test_a_column_takes_the_place_of_that_of_its_name():
    table = pa.table({"a": [1], "b": [2], "c": [3]})
    replaced = files.with_columns(table, pa.table({"b": [0.5], "d": ["x"]}))
    assert replaced.to_pylist() == [{"a": 1, "b": 0.5, "c": 3, "d": "x"}]
    assert replaced.column_names == ["a", "b", "c", "d"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"rows{suffix}"
    files.write(pa.table({"x": [1]}), path)
    before = path.read_bytes()

    def fail(_table, file):
        file.write(b"half a fi")
        raise OSError("no space left on device")

    monkeypatch.setattr("esscher.files.formats._write_parquet", fail)
    monkeypatch.setattr("esscher.files.formats.jsonl.dump", fail)
    with pytest.raises(OSError, match="no space left"):
        files.write(pa.table({"x": [2]}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ([1.0, float("nan")], "JSON has no NaN"),
        ([[1.0], [float("nan")]], "JSON has no NaN"),
        ([b"x", b"\xff"], "bytes"),
        ([{"a": 1.0}, {"a": float("nan")}], "JSON has no NaN"),
    ],
)
def test_what_json_cannot_say_is_refused_before_anything_is_written(tmp_path, column, reason):
    table = pa.table({"text": ["a", "b"], "x": column})
    with pytest.raises(ValueError, match=r"column 'x', row [01] cannot be written as JSON lines") as caught:
        files.write(table, tmp_path / "rows.jsonl")
    assert reason in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_is_known_before(tmp_path):
    table = pa.table({"x": [1]})
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(FileNotFoundError, match="make the folder first"):
        files.check_writable(table, tmp_path / "missing" / "x.jsonl")
    with pytest.raises(ValueError, match="is a folder"):
        files.check_writable(table, tmp_path / "folder.jsonl")
    with pytest.raises(ValueError, match="has the suffix ''"):
        files.check_writable(table, tmp_path / "rows")


def test_a_link_keeps_pointing_to_what_is_written(tmp_path):
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("")
    link.symlink_to(real)
    files.write(pa.table({"x": [1]}), link)
    assert link.is_symlink()
    assert real.read_text() == '{"x":1}\n'


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**40])
def test_integers_are_kept_and_never_rounded(tmp_path, number):
    path, back = tmp_path / "rows.jsonl", tmp_path / "back.jsonl"
    write_rows(path, ROW | {"text": f"{10**30}", "id": number})
    files.write(files.load(path), back)
    assert json.loads(back.read_text())["id"] == number
    assert len(files.read(path, columns={"prompt_id": "id"}).samples) == 1
