"""JSON lines read in Rust: what Python's json reads of any line, and its error where that has one."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esscher import _core, files
from esscher.files import jsonl
from esscher.files.blocks import read_table

BOM = b"\xef\xbb\xbf"

# Lines of every kind, as bytes.


def spaced(parts):
    space = st.sampled_from([b"", b"", b"", b" ", b"\t", b"  "])
    return st.tuples(space, parts, space).map(b"".join)


numbers = st.one_of(
    st.from_regex(rb"\A-?(0|[1-9][0-9]{0,4})\Z"),
    st.from_regex(rb"\A-?(0|[1-9][0-9]{0,3})\.[0-9]{1,20}\Z"),
    st.from_regex(rb"\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?\Z"),
    st.integers(-(2**64), 2**64).map(lambda value: b"%d" % value),
    st.floats().map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"-0", b"-0.0", b"1e999", b"-1e999", b"NaN", b"-Infinity", b"9007199254740993", b"5e-324"]),
)
escapes = st.sampled_from(
    [rb"\n", rb"\"", rb"\\", rb"\/", rb"\u0041", rb"\u00e9", rb"\uD83D\uDE00", rb"\ud83d", rb"\ude00", rb"\ud83d\u0041"]
)
pieces = st.one_of(
    st.text(max_size=9).map(lambda text: json.dumps(text)[1:-1].encode()),
    st.text(max_size=9).map(lambda text: json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")),
    escapes,
    st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"Infinity", b"{", b"]", b"\x7f", "‖".encode()]),
)
strings = st.lists(pieces, max_size=4).map(lambda texts: b'"' + b"".join(texts) + b'"')
keys = st.sampled_from([b'"a"', b'"b"', rb'"\u0061"', '"é"'.encode(), b'""'])
words = st.sampled_from([b"null", b"true", b"false"])


def listed(values):
    return st.lists(spaced(values), max_size=4).map(lambda parts: b"[" + b",".join(parts) + b"]")


def objects(values, keys=keys, most=3):
    members = st.tuples(spaced(keys), spaced(values)).map(b":".join)
    return st.lists(members, max_size=most).map(lambda parts: b"{" + b",".join(parts) + b"}")


values = st.recursive(st.one_of(words, numbers, strings), lambda inner: st.one_of(listed(inner), objects(inner)))
lists_of_numbers = st.one_of(listed(st.one_of(numbers, st.just(b"null"))), listed(listed(numbers)), st.just(b"null"))
# Values of one kind in all lines, or of any.
columns = st.sampled_from([numbers, strings, lists_of_numbers, objects(numbers), listed(strings), values])


@st.composite
def lines(draw):
    kinds = {name: draw(columns) for name in (b'"x"', b'"y"', b'"z"')}
    member = st.sampled_from(sorted(kinds)).flatmap(lambda name: kinds[name].map(lambda value: name + b":" + value))
    row = st.lists(spaced(member), max_size=5).map(lambda parts: b"{" + b",".join(parts) + b"}")
    return draw(st.lists(spaced(row), min_size=1, max_size=6))


def rows_of(data):
    """The objects of all lines as Python's json reads them, or the number of the first line that holds none."""
    found = []
    texts = (text for line in io.BytesIO(data) for text in line.splitlines())
    for number, text in enumerate(texts, start=1):
        text = text.removeprefix(BOM) if number == 1 else text
        if not text.strip():
            continue
        try:
            row = json.loads(text.decode("utf-8", "surrogateescape"))
        except ValueError:
            return number
        if not isinstance(row, dict) or any(not is_text(key) for key in row):
            return number
        found.append(row)
    return found


def is_text(text):
    return re.search("[\ud800-\udfff]", text) is None


def kind_of(values):
    """The Arrow type that holds all values as they are, as Arrow finds it; `None` if there is none."""
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, ValueError, OverflowError):
        return None
    return None if has_no_type(values) or holds_no_record(kind) else kind


def has_no_type(values):
    """Whether booleans are beside fractions, which Arrow takes for 0 and 1 then."""
    kinds = set(map(type, values))
    within = [value for value in values if isinstance(value, list)]
    members = [value for value in values if isinstance(value, dict)]
    names = {name for value in members for name in value}
    return (
        kinds >= {bool, float}
        or (bool(within) and has_no_type([one for value in within for one in value]))
        or any(has_no_type([value[name] for value in members if name in value]) for name in names)
    )


def holds_no_record(kind):
    within = [kind.field(i).type for i in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not within) or any(map(holds_no_record, within))


def plain(value):
    """A value with what columns do not tell taken out: keys that are null, and how an integer is held."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, str):
        # No JSON tells two halves of surrogate pairs side by side from the pair.
        return json.loads(json.dumps(value))
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > 2**53):
        return str(value)
    return ("number", float(value).hex()) if isinstance(value, int | float) else value


def column_values(column):
    if isinstance(column.type, pa.JsonType):
        texts = [text for chunk in column.chunks for text in chunk.storage.to_pylist()]
        assert not any("Infinity" in re.sub(r'"(?:[^"\\]|\\.)*"', "", text) for text in texts if text is not None)
        return [None if text is None else json.loads(text) for text in texts]
    return column.to_pylist()


def read(path, data, **settings):
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(jsonl, name, value)
        return files.load(path)


def assert_read_as_by_python(path, data):
    rows = rows_of(data)
    if isinstance(rows, int):
        with pytest.raises(ValueError, match=rf"rows.jsonl, line {rows} ") as caught:
            read(path, data)
        assert "panicked" not in str(caught.value)
        return
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = read(path, data)
    assert sorted(table.column_names) == sorted(names)
    for name in names:
        expected = [plain(row.get(name)) for row in rows]
        assert [plain(value) for value in column_values(table.column(name))] == expected, name
    small = read(path, data, BYTES_AT_ONCE=1)
    assert small.schema.equals(table.schema)
    for name in names:
        assert list(map(plain, column_values(small.column(name)))) == [plain(row.get(name)) for row in rows]


@settings(max_examples=400, deadline=None)
@given(lines=lines(), end=st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n \n"]), mark=st.sampled_from([b"", BOM]))
def test_lines_are_read_as_by_python(tmp_path_factory, lines, end, mark):
    assert_read_as_by_python(tmp_path_factory.mktemp("files") / "rows.jsonl", mark + end.join(lines))


@settings(max_examples=400, deadline=None)
@given(lines=lines(), data=st.data())
def test_broken_lines_are_refused_where_python_refuses_them(tmp_path_factory, lines, data):
    text = bytearray(b"\n".join(lines))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 2))
        text[at : at + cut] = data.draw(
            st.one_of(
                st.sampled_from([b"", b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"-", b"0"]),
                st.binary(max_size=2),
            )
        )
    assert_read_as_by_python(tmp_path_factory.mktemp("files") / "rows.jsonl", bytes(text))


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b"{,}", b'{"a" 1}', b'{"a":1 "b":2}',
        b'{"a":[1,]}', b'{"a":[,1]}', b'{"a":[1 2]}', b'{"a":[1}', b'{"a":01}', b'{"a":-}', b'{"a":1.}', b'{"a":.5}',
        b'{"a":1e}', b'{"a":1e+}', b'{"a":+1}', b'{"a":--1}', b'{"a":0x1}', b'{"a":inf}', b'{"a":-NaN}', b'{"a":nul}',
        b'{"a":nullx}', b'{"a":True}', b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\\u+123"}', b'{"a":"\x01"}', b'{"a":"',
        b'{"a":"\\', b'{"a":"\\"', b"{'a':1}", b'{"a":1}}', b'{"a":1}{"a":2}', b'\xef\xbb\xbf{"a":1}', b"[]", b"1",
        b"nul", b"\x00", b"{1:2}", b'\xff{"a":1}', b'{"a":1}\xff', b'{"a":1}\x0b', b'{"\xff":1}', b'{"\\ud800":1}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_object_is_refused_with_its_number(tmp_path, line):
    assert_read_as_by_python(tmp_path / "rows.jsonl", b'{"a":1}\n\n' + line + b'\n{"a":2}\n')


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(objects(values, most=2), min_size=1, max_size=5))
def test_columns_have_the_type_that_arrow_finds(tmp_path_factory, lines):
    rows = rows_of(b"\n".join(lines))
    # Where a key is there twice, its first value counts too.
    twice = any(len(set(names)) < len(names) for line in lines for names in names_of(line))
    if twice or not any(rows):
        return
    table = read(tmp_path_factory.mktemp("files") / "rows.jsonl", b"\n".join(lines))
    for name in table.column_names:
        kind = kind_of([row.get(name) for row in rows])
        assert table.schema.field(name).type == (pa.json_() if kind is None else kind), name


def names_of(line):
    """The keys of all objects within a line, those that come twice too."""
    found = []
    json.loads(
        line.decode("utf-8", "surrogateescape"),
        object_pairs_hook=lambda pairs: found.append([key for key, _ in pairs]),
    )
    return found


@settings(max_examples=500, deadline=None)
@given(texts=st.lists(numbers, min_size=1, max_size=20))
@example(
    [b"9007199254740993.0", b"1.7976931348623159e308", b"2.2250738585072011e-308", b"0.1", b"123456789012345678e-5"]
)
@example([b"0." + b"0" * 400 + b"1e400", b"1" * 400 + b".0", b"1e" + b"9" * 30, b"1e-" + b"9" * 30, b"0e" + b"9" * 30])
def test_numbers_are_python_s_floats_bit_for_bit(tmp_path_factory, texts):
    expected = [json.loads(text) for text in texts]
    if any(isinstance(value, int) and abs(value) > 2**53 for value in expected):
        return
    table = read(tmp_path_factory.mktemp("files") / "rows.jsonl", b'{"x":[0.5,' + b",".join(texts) + b"]}")
    assert table.schema.field("x").type == pa.list_(pa.float64())
    got = np.array(table.column("x")[0].as_py()[1:])
    np.testing.assert_array_equal(got.view(np.int64)[got == got], np.array(expected, float).view(np.int64)[got == got])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(np.array(expected, float)))


# What columns are made of.


def large(rows, width):
    rng = np.random.default_rng(0)
    for i in range(rows):
        logprobs = (-rng.random(width)).tolist()
        yield {
            "id": i,
            "x": None if i % 7 == 0 else [None if i % 5 == 0 else -0.5, *logprobs],
            "text": "é\n" * (i % 40),
        }


def test_results_are_the_same_for_any_number_of_threads():
    text = "".join(json.dumps(row) + "\n" for row in large(6000, 30)).encode()
    assert len(text) > 3 * 2**20
    found = []
    for threads in (1, 2, 5, None):
        lines = _core.JsonLines()
        lines.see(text, threads)
        batches, count = _core.read_json_lines(text, lines.kinds, 0, threads)
        assert (lines.rows, count) == (6000, 6000)
        found.append((lines.kinds, flat(batches)))
    assert all(one == found[0] for one in found)
    assert len(batches) > 1


def flat(parts):
    return (
        parts.tobytes()
        if isinstance(parts, np.ndarray)
        else [flat(p) for p in parts]
        if isinstance(parts, list | tuple)
        else parts
    )


def test_a_bad_line_is_named_by_its_number_in_a_large_text(tmp_path):
    texts = [json.dumps(row) for row in large(6000, 30)]
    texts[4321] = texts[4321][:-1]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(texts))
    with pytest.raises(
        ValueError, match=r"rows.jsonl, line 4322 is not valid JSON: .* at character \d+\. JSON lines hold"
    ):
        files.scan(path)


def test_arrays_are_of_the_kernel_s_memory_and_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in large(3000, 30)))
    table = files.load(path)
    table.validate(full=True)
    assert table.column("x").null_count == sum(i % 7 == 0 for i in range(3000))
    assert table.to_pylist() == list(large(3000, 30))


def test_what_is_not_asked_for_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"x": 1, "text": "]}\\"", "deep": [[{"x": 2}], "}"], "y": [0.5], "n": -1e5}\n{"y": null, "x": 3}')
    rows = files.scan(path)
    # What is broken since the file was looked through is found where a value's end depends on it.
    path.write_text(path.read_text().replace("-1e5", "1x5"))
    assert read_table(rows, ["y", "x"]).to_pylist() == [{"y": [0.5], "x": 1}, {"y": None, "x": 3}]


@pytest.mark.parametrize(
    "now", ['{"x": "1"}', '{"x": 0.5}', '{"x": [1]}', '{"x": true}', '{"x": {}}', '{"x": 1', "[1]"]
)
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, now):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"x": 1}\n{"x": 2}\n')
    rows = files.scan(path)
    path.write_text('{"x": 1}\n' + now + "\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2 (cannot be read: .* it has changed|is no)"):
        list(files.read_blocks(rows, 10))


def test_blank_lines_make_no_blocks_and_objects_without_keys_are_rows(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"x": 1}\n\n\n{"x": 2}\n{}\n\n\n')
    for size in (1, 100):
        monkeypatch.setattr(jsonl, "BYTES_AT_ONCE", size)
        assert [(block.first, block.table.to_pylist()) for block in files.read_blocks(files.scan(path), 2)] == [
            (0, [{"x": 1}, {"x": 2}]),
            (2, [{"x": None}]),
        ]
    path.write_text("{}\n{}\n")
    assert [block.first for block in files.read_blocks(files.scan(path), 1)] == [0, 1]


def test_keys_by_the_hundred_are_columns_and_within_objects_a_map(tmp_path):
    row = {f"k{i}": i for i in range(1000)}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row | {"map": row}) + "\n" + json.dumps({"map": {"k0": 1}}))
    table = files.load(path)
    assert table.num_columns == 1001
    assert table.schema.field("map").type == pa.json_()
    assert table.column("k999").to_pylist() == [999, None]
    assert column_values(table.column("map")) == [row, {"k0": 1}]


@pytest.mark.parametrize("deep", [10, 31, 40, 500])
def test_lists_within_lists_are_read_however_deep(tmp_path, deep):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"x": ' + "[" * deep + "1" + "]" * deep + "}")
    column = files.load(path).column("x")
    assert isinstance(column.type, pa.JsonType) == (deep > 32)
    assert column_values(column) == [json.loads("[" * deep + "1" + "]" * deep)]


def test_integers_that_python_does_not_read_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"x": 1}\n{"x": ' + "1" * 4301 + "}\n")
    with pytest.raises(ValueError, match="line 2 cannot be read: it holds an integer of more than 4300 digits"):
        files.scan(path)


def test_what_no_line_of_json_holds_is_no_kind():
    with pytest.raises(ValueError, match="no column of JSON lines is read as float"):
        _core.read_json_lines(b"{}", {"x": "float"}, 0)
