"""The types in which trainers write columns: what is read means the same, here and where a file is scored."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esscher import files
from offline_runs import Recorder, score

# Halves, which every kind of number holds; ids below 5, which the tabular models know.
ROWS = [
    {"prompt_token_ids": [1], "completion_token_ids": [1, 2, 0], "rewards": 1.0, "terminated": True, "prompt_id": 7},
    {"prompt_token_ids": [2], "completion_token_ids": [3, 3, 4], "rewards": 0.0, "terminated": False, "prompt_id": 8},
    {"prompt_token_ids": [1], "completion_token_ids": [2, 0], "rewards": 1.0, "terminated": True, "prompt_id": 7},
]
for _row in ROWS:
    _row["policy_logprobs"] = [-0.5 * i for i in range(len(_row["completion_token_ids"]))]
TOKENS = ("prompt_token_ids", "completion_token_ids")


def column(name):
    return [row[name] for row in ROWS]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def changed(path, **columns):
    """Write the rows as Parquet, some columns in another type."""
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(files.with_columns(table, pa.table(columns)), path)
    return path


def assert_means_the_same(path, tmp_path):
    """Check that a file is read as the plain one, and scored as that."""
    plain = lines(tmp_path / "plain.jsonl", ROWS)
    one, other = files.read(path).samples, files.read(plain).samples
    assert one.columns == other.columns
    for name in ("prompts", "completions", "policy_logprobs"):
        np.testing.assert_array_equal(getattr(one, name).values, getattr(other, name).values)
        np.testing.assert_array_equal(getattr(one, name).offsets, getattr(other, name).offsets)
    for name in ("groups", "rewards", "terminated"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    outputs = [score(file, tmp_path / f"{file.stem}-scored{file.suffix}") for file in (path, plain)]
    scored, expected = (files.read(output).samples.prior_logprobs.values for output in outputs)
    np.testing.assert_array_equal(scored, expected)


def refused_alike(path, tmp_path):
    """Return what reading says, which is what scoring says."""
    with pytest.raises(ValueError, match=path.name) as read:
        files.read(path)
    scorer = Recorder()
    with pytest.raises(ValueError, match=path.name) as scored:
        score(path, tmp_path / "out.jsonl", scorer)
    assert not scorer.asked
    assert str(read.value) == str(scored.value)
    return str(read.value)


def wrapped(name):
    return [[value] for value in column(name)]


def half(name):
    return pa.array([np.array(row, np.float16) for row in column(name)], pa.list_(pa.float16()))


def dictionary(values):
    return pa.array(values).dictionary_encode()


def text_views(values):
    return pa.array(values, pa.string_view())


IDS = column("completion_token_ids")
LOGPROBS = column("policy_logprobs")
REWARDS = column("rewards")
NUMBERS = (pa.float32(), pa.float64(), pa.decimal128(20, 2), pa.decimal256(40, 1))
PARQUET = {
    "ids in large lists": {"completion_token_ids": pa.array(IDS, pa.large_list(pa.int8()))},
    "ids in list views": {"completion_token_ids": pa.array(IDS, pa.list_view(pa.uint64()))},
    "ids in large list views": {"completion_token_ids": pa.array(IDS, pa.large_list_view(pa.int16()))},
    "prompts in lists of one size": {"prompt_token_ids": pa.array(column("prompt_token_ids"), pa.list_(pa.int64(), 1))},
    "ids in lists of one list": {"completion_token_ids": pa.array([[row] for row in IDS])},
    "ids in a tensor's list": {
        "completion_token_ids": pa.array([[row] for row in IDS], pa.list_(pa.list_(pa.int32()), 1))
    },
    "half-float ids": {"completion_token_ids": half("completion_token_ids")},
    **{f"ids as {kind}": {"completion_token_ids": pa.array(IDS, pa.list_(kind))} for kind in NUMBERS},
    "half-float log-probs": {"policy_logprobs": half("policy_logprobs")},
    "log-probs in lists of one list": {"policy_logprobs": pa.array([[row] for row in LOGPROBS])},
    **{
        f"log-probs as {kind}": {
            "policy_logprobs": pa.array([[Decimal(x) for x in row] for row in LOGPROBS], pa.list_(kind))
            if pa.types.is_decimal(kind)
            else pa.array(LOGPROBS, pa.list_(kind))
        }
        for kind in NUMBERS
    },
    "rewards as booleans": {"rewards": pa.array([bool(x) for x in REWARDS])},
    "rewards as int8": {"rewards": pa.array([int(x) for x in REWARDS], pa.int8())},
    "rewards as decimals": {"rewards": pa.array([Decimal(int(x)) for x in REWARDS], pa.decimal128(10, 3))},
    "rewards as half-floats": {"rewards": pa.array(np.array(REWARDS, np.float16))},
    "rewards as text": {"rewards": pa.array([str(x) for x in REWARDS], pa.large_string())},
    "rewards as text in a dictionary": {"rewards": dictionary([str(x) for x in REWARDS])},
    "rewards as numbers in a dictionary": {"rewards": dictionary(REWARDS)},
    "rewards as text of booleans": {"rewards": pa.array([str(bool(x)) for x in REWARDS])},
    "rewards in lists": {"rewards": pa.array(wrapped("rewards"))},
    "rewards in tensors": {"rewards": pa.array(wrapped("rewards"), pa.list_(pa.float32(), 1))},
    "flags as int8": {"terminated": pa.array([1, 0, 1], pa.int8())},
    "flags as fractions": {"terminated": pa.array([1.0, 0.0, 1.0])},
    "flags in lists": {"terminated": pa.array(wrapped("terminated"))},
    "flags as text": {"terminated": pa.array(["True", "false", "true"])},
    "reasons": {"terminated": pa.array(["stop", "length", "eos"])},
    "reasons in a dictionary": {"terminated": dictionary(["STOP", "MAX_TOKENS", "tool_calls"])},
    "reasons in views": {"terminated": text_views(["eos_token", "abort", "end_turn"])},
    "ids of prompts as text": {"prompt_id": pa.array(["b", "a", "b"], pa.large_string())},
    "ids of prompts in a dictionary": {"prompt_id": dictionary(["b", "a", "b"])},
    "ids of prompts as fractions": {"prompt_id": pa.array([7.0, 8.0, 7.0])},
    "ids of prompts as 64-bit hashes": {"prompt_id": pa.array([2**64 - 1, 2**64 - 2, 2**64 - 1], pa.uint64())},
    "ids of prompts as decimals": {"prompt_id": pa.array([Decimal(2**64), Decimal(1), Decimal(2**64)])},
    "ids of prompts in lists": {"prompt_id": pa.array(wrapped("prompt_id"))},
    "nothing but nulls": {"policy_entropy": pa.nulls(3), "token_kl": pa.nulls(3, pa.list_(pa.float32()))},
}


@pytest.mark.parametrize("columns", PARQUET.values(), ids=PARQUET)
def test_columns_of_every_type_in_parquet_mean_the_same(tmp_path, columns):
    assert_means_the_same(changed(tmp_path / "rows.parquet", **columns), tmp_path)


JSON_LINES = {
    "ids as fractions": {"completion_token_ids": [[1.0, 2.0, 0.0], [3, 3, 4], [2.0, 0]]},
    "everything in lists": {name: wrapped(name) for name in ROWS[0]},
    "some in lists": {"completion_token_ids": [IDS[0], [IDS[1]], IDS[2]], "rewards": [1.0, [0], True]},
    "rewards of several types": {"rewards": [True, 0, "1.0"]},
    "rewards as text": {"rewards": ["1.0", "0", "1e0"]},
    "flags of several types": {"terminated": [True, 0, "stop"]},
    "reasons": {"terminated": ["stop", "length", "tool_calls"]},
    "flags as fractions": {"terminated": [1.0, 0, 1]},
    "ids of prompts of several types": {"prompt_id": ["7", 8, 7]},
    "long ids of prompts": {"prompt_id": [2**64, 2**127, 2**64]},
    "long ids of prompts beside short ones": {"prompt_id": [2**63, 8, 2**63]},
    "nothing but nulls": {"policy_entropy": [None] * 3},
}


@pytest.mark.parametrize("columns", JSON_LINES.values(), ids=JSON_LINES)
def test_columns_of_every_type_in_json_lines_mean_the_same(tmp_path, columns):
    rows = [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(ROWS)]
    assert_means_the_same(lines(tmp_path / "rows.jsonl", rows), tmp_path)


# What is not needed.

DEEP = [[[[1]], "x"], {"a": {"b": [None, 2.5]}}, {}]
OTHERS = {
    "mixed types": [42, "42", None],
    "mixed types in lists": [[1, "a"], [], [None]],
    "mixed types in objects": [{"a": 1}, {"a": "1"}, {"b": []}],
    "integers beside fractions": [2**53 + 1, 0.5, 1],
    "64-bit hashes": [2**63, 2**64 - 1, 1],
    "64-bit hashes beside fractions": [2**63 - 1, 0.5, 2**63],
    "64-bit hashes in lists": [[2**63], [0.5], []],
    "numbers of any size": [10**30, -(10**30), 0],
    "booleans beside fractions": [0.5, True, 1],
    "booleans beside fractions in objects": [{"a": 0.5}, {"a": True}, {"a": 1}],
    "half surrogate pairs": ["\ud83d cut", "whole", "\ude00"],
    "half surrogate pairs in keys": [{"\ud83d": 1}, {}, None],
    "objects without keys": [{}, {}, {}],
    "objects without keys within": [{"a": [{}]}, {"a": []}, None],
    "objects of nulls": [{"a": None}, None, {"a": None}],
    "objects in some rows": [{"a": 1}, 2, "x"],
    "lists in some rows": [[1], 1, [[1]]],
    "deep": DEEP,
    "nothing": [None, None, None],
    "empty lists": [[], [], []],
    "times": ["2026-01-01", "2026-01-01T00:00:00Z", "x"],
    "not finite": [float("nan"), float("inf"), 0.5],
    "not finite in objects": [{"a": float("nan")}, {"a": float("-inf")}, {}],
    "not finite beside text": [float("nan"), float("-inf"), "Infinity"],
}


def as_it_is_said(value):
    return json.dumps(value, sort_keys=True)


def without_nulls(value):
    """Leave out what JSON lines do not tell from a key that is not there."""
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


@pytest.mark.parametrize("values", OTHERS.values(), ids=OTHERS)
def test_a_column_that_is_not_needed_never_refuses_a_file_and_stays_as_it_is(tmp_path, values):
    rows = [row | {"other": value} for row, value in zip(ROWS, values, strict=True)]
    path = lines(tmp_path / "rows.jsonl", rows)
    assert_means_the_same(path, tmp_path)
    outputs = [tmp_path / "rows-scored.jsonl"]
    if not any(name in json.dumps(values) for name in ("NaN", "Infinity")):
        through = score(path, tmp_path / "through.parquet")
        outputs.append(score(through, tmp_path / "back.jsonl", overwrite=True))
    for output in outputs:
        kept = [json.loads(line)["other"] for line in output.read_text().splitlines()]
        assert [said(one) for one in kept] == [said(value) for value in values]


def said(value):
    """Return a value's JSON, but for what JSON lines do not tell from a key that is not there."""
    if isinstance(value, dict):
        value = {key: one for key, one in value.items() if one is not None}
    return json.dumps(value, sort_keys=True)


def test_a_column_of_another_type_in_every_piece_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("esscher.files.jsonl.BYTES_AT_ONCE", 1)
    for name, values in OTHERS.items():
        path = lines(tmp_path / f"{name}.jsonl", [row | {"other": one} for row, one in zip(ROWS, values, strict=True)])
        output = score(path, tmp_path / f"{name}-out.jsonl")
        kept = [json.loads(line)["other"] for line in output.read_text().splitlines()]
        assert [said(one) for one in kept] == [said(value) for value in values]


def test_objects_of_ever_other_keys_stay_as_they_are(tmp_path):
    values = [{f"{i}-{j}": j for j in range(200)} for i in range(3)]
    path = lines(tmp_path / "rows.jsonl", [row | {"other": one} for row, one in zip(ROWS, values, strict=True)])
    output = score(path, tmp_path / "out.jsonl")
    assert [json.loads(line)["other"] for line in output.read_text().splitlines()] == values


PARQUET_OTHERS = {
    "bytes": [b"\xff", b"", None],
    "times": pa.array([0, 1, 2], pa.timestamp("ns", "UTC")),
    "durations": pa.array([0, 1, 2], pa.duration("us")),
    "maps": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int8())),
    "large integers": pa.array([2**64 - 1, 0, 1], pa.uint64()),
    "decimals": [Decimal("1e30"), Decimal(0), None],
    "objects": [{"a": [{"b": None}]}, None, {"a": []}],
    "dictionaries": pa.array(["x", "y", "x"]).dictionary_encode(),
    "not finite": [float("nan"), float("inf"), None],
}


@pytest.mark.parametrize("values", PARQUET_OTHERS.values(), ids=PARQUET_OTHERS)
def test_what_parquet_holds_besides_stays_as_it_is(tmp_path, values):
    path = changed(tmp_path / "rows.parquet", other=values)
    assert_means_the_same(path, tmp_path)
    before, after = (pq.read_table(file).column("other") for file in (path, tmp_path / "rows-scored.parquet"))
    assert after.type == before.type
    assert str(after.to_pylist()) == str(before.to_pylist())


def test_columns_of_one_name_matter_only_where_they_are_read(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / "rows.parquet"
    pq.write_table(table.append_column("x", pa.array([1, 2, 3])).append_column("x", pa.array(["a", "b", "c"])), path)
    assert_means_the_same(path, tmp_path)
    pq.write_table(table.append_column("prompt_token_ids", pa.array([[1], [1], [1]])), path)
    assert "has several columns of one name, prompt_token_ids: rename all but one" in refused_alike(path, tmp_path)


def test_files_read_together_may_differ_in_what_is_not_needed(tmp_path):
    first = lines(tmp_path / "1.jsonl", [row | {"step": 3, "text": "a"} for row in ROWS])
    second = lines(tmp_path / "2.jsonl", [dict(reversed(row.items())) | {"step": "three"} for row in ROWS])
    third = changed(tmp_path / "3.parquet", extra=[b"x"] * 3, reward=pa.array([True, False, True]))
    fourth = changed(tmp_path / "4.parquet", prompt_id=pa.array(["7", "8", "7"]))
    samples = files.read([first, second, third, fourth], step="all").samples
    assert samples.groups.tolist() == [0, 8, 12]
    assert samples.rewards.tolist() == [1.0] * 8 + [0.0] * 4


def test_a_file_of_two_row_groups_is_one(tmp_path):
    table = pa.Table.from_pylist(ROWS).append_column("kind", pa.array(["x", "y", "z"]).dictionary_encode())
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path, row_group_size=1)
    assert_means_the_same(path, tmp_path)


# Lines.

LINES = [json.dumps(row) for row in ROWS]
WHOLE = "\n".join(LINES)
BOM = b"\xef\xbb\xbf"
READ = {
    "line feeds": WHOLE.encode() + b"\n",
    "no end": WHOLE.encode(),
    "carriage returns": WHOLE.replace("\n", "\r").encode(),
    "both": WHOLE.replace("\n", "\r\n").encode() + b"\r\n",
    "blank lines": b"\n \n" + WHOLE.replace("\n", "\n\n\r").encode() + b"\n\n",
    "a byte order mark": BOM + WHOLE.encode(),
    "not utf-8 where nobody reads": WHOLE.replace('"rewards"', '"text": "\xff", "rewards"').encode("latin-1"),
    "keys in other orders": "\n".join(json.dumps(dict(reversed(row.items()))) for row in ROWS).encode(),
}


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.json", "rows.jsonl.gz", "rows.ndjson.zst", "rows.jsonl"])
@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_lines_are_read_packed_and_under_every_name(tmp_path, name, data):
    path = tmp_path / name
    pack = {".gz": gzip.compress, ".zst": lambda text: pa.compress(text, "zstd").to_pybytes()}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    plain = lines(tmp_path / "plain.jsonl", ROWS)
    np.testing.assert_array_equal(files.read(path).samples.rewards, files.read(plain).samples.rewards)
    assert files.load(path, TOKENS) == files.load(plain, TOKENS)


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream], ids=["file", "stream"])
def test_arrow_files_are_read_whatever_kind_they_are(tmp_path, new):
    path = tmp_path / "rows.arrow"
    table = pa.Table.from_pylist(ROWS)
    with new(path, table.schema) as file:
        file.write_table(table, max_chunksize=2)
    assert_means_the_same(changed(tmp_path / "same.parquet"), tmp_path)
    assert files.load(path) == table
    assert [len(block.table) for block in files.read_blocks(files.scan(path), 1)] == [1, 1, 1]


@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_lines_of_every_kind_are_read(tmp_path, data):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    assert_means_the_same(path, tmp_path)


REFUSED = {
    "pretty-printed": (json.dumps(ROWS[0], indent=1), "line 1 is not valid JSON"),
    "a pretty-printed list": (json.dumps(ROWS, indent=1), "line 1 is not valid JSON"),
    "a list": (json.dumps(ROWS), "line 1 is no JSON object"),
    "a comma behind": (",\n".join(LINES), "line 1 is not valid JSON"),
    "two in a line": (LINES[0] + "\n" + LINES[1] + LINES[2], "line 2 is not valid JSON"),
    "cut off": (WHOLE[:-20], "line 3 is not valid JSON"),
    "cut off behind blank lines": ("\n\n" + WHOLE[:-20], "line 5 is not valid JSON"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_lines_that_are_no_objects_are_refused_alike(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    assert f"{path}, {message}" in refused_alike(path, tmp_path)
    assert "JSON lines hold one whole {...} a line" in refused_alike(path, tmp_path)


def test_what_is_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(WHOLE + "\n" + '{"a":' * 100_000)
    assert f"{path}, line 4 cannot be read: " in refused_alike(path, tmp_path)


def test_half_a_surrogate_pair_that_is_needed_is_an_error_with_its_line(tmp_path):
    path = lines(
        tmp_path / "rows.jsonl",
        [row | {"prompt_id": text} for row, text in zip(ROWS, ["a", "\ud83d", "b"], strict=True)],
    )
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: column 'prompt_id', row 1 is no text, but half a surro"):
        files.read(path)


def test_lines_are_counted_with_blank_ones_between(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + LINES[0] + "\n\n" + LINES[1].replace("[3, 3, 4]", "[3, -3, 4]"))
    message = f"{path}, line 4: column 'completion_token_ids', row 1, token 1 is -3"
    assert message in refused_alike(path, tmp_path)


def test_of_several_faults_the_first_row_s_is_named(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[1]["rewards"] = float("inf")
    rows[2]["policy_logprobs"] = [0.5, -1.0]
    path = lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: rewards\[1\] is inf"):
        files.read(path)


BAD = {
    "a fraction": (
        {"completion_token_ids": [1.5, 2, 0]},
        "row 1, token 0 is 1.5: an id is an integer, 0 to 4294967295",
    ),
    "not a number": ({"completion_token_ids": [float("nan"), 1]}, "row 1, token 0 is nan: an id is an integer"),
    "too large": ({"completion_token_ids": [2**32]}, "row 1, token 0 is 4294967296"),
    "far too large": (
        {"completion_token_ids": [2**70]},
        "row 1 is of no one type, or too large: [1180591620717411303424]",
    ),
    "text among ids": ({"completion_token_ids": [1, "2"]}, 'row 1 is of no one type, or too large: [1, "2"]'),
    "an object": ({"completion_token_ids": {"ids": [1]}}, "it must be lists of integers, and is not in row 1"),
    "two lists": ({"completion_token_ids": [[1], [2]]}, "row 1 has 2 lists: it must have one"),
    "no lists": ({"completion_token_ids": None}, "row 1 is null"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_ids_that_are_none_are_refused_alike_with_their_line(tmp_path, change, message):
    path = lines(tmp_path / "rows.jsonl", [ROWS[0], ROWS[1] | change, ROWS[2]])
    said = refused_alike(path, tmp_path)
    assert said.startswith(f"{path}, line 2: column 'completion_token_ids'")
    assert message in said


@pytest.mark.parametrize(("kind", "most"), [(pa.float16(), 2**11), (pa.float32(), 2**24)])
def test_ids_that_their_type_may_have_rounded_are_refused(tmp_path, kind, most):
    values = [[1.0], [float(most + 2)], [1.0]]
    path = changed(tmp_path / "rows.parquet", completion_token_ids=pa.array(values, pa.list_(kind)))
    assert f"an id that {kind} holds is an integer, 0 to {most}" in refused_alike(path, tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("rewards", pa.array([[1.0], [1.0, 2.0], [1.0]]), "row 1 has 2 values: it must have one"),
        ("rewards", pa.array(["1", "high", "1"]), "row 1 is 'high': it must be a number"),
        ("rewards", pa.array([b"1", b"2", b"3"]), "has type binary: it must be numbers"),
        ("rewards", pa.array([1, None, 1]), "row 1 is null"),
        ("terminated", pa.array([1.0, 0.5, 0.0]), "row 1 is 0.5: it must be 0 or 1, false or true"),
        ("terminated", pa.array(["stop", "who knows", "stop"]), "row 1 is 'who knows': it must be true or false, or"),
        ("terminated", pa.array([b"1", b"2", b"3"]), "has type binary: it must be booleans"),
        ("prompt_id", pa.array([1.0, float("nan"), 1.0]), "row 1 is nan: it must be a string or an integer"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_row(tmp_path, name, values, message):
    path = changed(tmp_path / "rows.parquet", **{name: values})
    with pytest.raises(ValueError, match=f"rows.parquet: column '{name}'") as caught:
        files.read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_mask": [1, 2, 1]}, "column 'loss_mask', row 1, token 1 is 2: a mask is 0 or 1"),
        ({"loss_mask": [1, 1]}, "column 'trainer_logprobs', row 1 has 3 values, its mask 2"),
        ({"trainer_logprobs": [[-1.0], [-2.0]]}, "column 'trainer_logprobs', row 1 has 2 lists: it must have one"),
        ({"inference_logprobs": "x"}, "column 'inference_logprobs' has type string: it must be lists of numbers"),
        ({"terminated": "who knows"}, "column 'terminated', row 1 is 'who knows'"),
    ],
)
def test_a_row_of_log_probs_of_two_engines_is_named_with_its_line(tmp_path, change, message):
    logprobs = [-1.0, -0.5, -2.0]
    good = {"trainer_logprobs": logprobs, "inference_logprobs": logprobs, "loss_mask": [1, 1, 1], "terminated": True}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(["", json.dumps(good), "", json.dumps(good | change)]))
    with pytest.raises(ValueError, match=r"rows.jsonl, line 4: ") as caught:
        files.read_logprobs([path])
    assert message in str(caught.value)


def test_log_probs_of_two_engines_are_read_in_every_type(tmp_path):
    logprobs = [[-1.0, -0.5], [-2.0]]
    plain = files.read_logprobs([lines(tmp_path / "plain.jsonl", engines(logprobs, logprobs))])
    kinds = {
        "decimals": pa.array([[Decimal(x) for x in row] for row in logprobs], pa.list_(pa.decimal128(9, 3))),
        "half-floats": pa.array([np.array(row, np.float16) for row in logprobs], pa.list_(pa.float16())),
        "views": pa.array(logprobs, pa.list_view(pa.float32())),
        "one list": pa.array([[row] for row in logprobs]),
    }
    for name, column in kinds.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"policy_logprobs": column, "rollout_logprobs": column}), path)
        np.testing.assert_array_equal(files.read_logprobs([path]).train.values, plain.train.values)
    mixed = lines(tmp_path / "mixed.jsonl", engines([logprobs[0], [logprobs[1]]], [logprobs[0], [None]]))
    read = files.read_logprobs([mixed])
    np.testing.assert_array_equal(read.train.values, plain.train.values)
    np.testing.assert_array_equal(read.rollout.values, [-1.0, -0.5, np.nan])


def engines(train, rollout):
    pairs = zip(train, rollout, strict=True)
    return [{"policy_logprobs": one, "rollout_logprobs": other, "extra": one[0]} for one, other in pairs]


# What is no file of rows.


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.parquet", b"\x28\xb5\x2f\xfd", "is compressed, which only JSON lines may be: unpack it first"),
        (
            "rows.parquet.gz",
            gzip.compress(b"PAR1", mtime=0),
            "has the suffix '.gz': files are Parquet (.parquet), Arrow",
        ),
        ("rows.jsonl.gz", gzip.compress(WHOLE.encode(), mtime=0)[:-20], "cannot be unpacked; was it cut off?"),
        ("rows.jsonl.zst", pa.compress(WHOLE.encode(), "zstd").to_pybytes()[:-20], "cannot be unpacked; was it cut"),
        ("rows.jsonl", b"PAR1....PAR1", "is a .parquet file: name it so"),
        ("rows.arrow", b"{}", "is not a whole Arrow file; was it cut off?"),
        ("rows.jsonl", b"", "is empty"),
        ("rows.jsonl", b"\n \n", "has no rows"),
        ("rows.jsonl", BOM, "has no rows"),
        ("rows.parquet", b"{}", "is not a whole Parquet file"),
    ],
)
def test_what_is_no_file_of_rows_is_refused_alike(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    assert f"{path} {message}" in refused_alike(path, tmp_path)


def test_a_name_of_what_is_compressed_is_none_to_write_to(tmp_path):
    path = lines(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"has the suffix '\.gz': files are Parquet"):
        score(path, tmp_path / "out.jsonl.gz")


def test_a_parquet_file_without_rows_is_refused_alike(tmp_path):
    path = changed(tmp_path / "rows.parquet")
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert f"{path} has no rows" in refused_alike(path, tmp_path)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_folder_is_read_whole_and_scored_file_by_file(tmp_path, kind):
    folder = tmp_path / f"shards.{kind}"
    folder.mkdir()
    for i, rows in enumerate((ROWS[:1], ROWS[1:])):
        files.write(pa.Table.from_pylist(rows), folder / f"{i}.{kind}")
    plain = files.read(lines(tmp_path / "plain.jsonl", ROWS)).samples
    np.testing.assert_array_equal(files.read(folder).samples.completions.values, plain.completions.values)
    with pytest.raises(ValueError, match=f"shards.{kind} is a folder: here files are taken one by one, such as .*/0."):
        score(folder, tmp_path / "out.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is a folder: give a file, Parquet"):
        score(tmp_path / "empty", tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="empty is a folder, and no files are in it"):
        files.read(tmp_path / "empty")
