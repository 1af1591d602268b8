"""Addresses with more than host and port, and folders where files are expected: told what to give instead."""

from __future__ import annotations

import asyncio

import pytest

from esscher import files
from esscher.client import AsyncClient, Client
from esscher.integrations.openrlhf import RewardServer
from esscher.integrations.trl import EsscherReward
from esscher.integrations.verl import compute_score, make_compute_score
from esscher.server.serving import check_host
from models import alice_folder
from offline_runs import rows

BARE = "localhost:50051"
ADDRESSES = [
    f"http://{BARE}",
    f"https://{BARE}",
    f"grpc://{BARE}",
    f"grpcs://{BARE}/",
    f"dns:///{BARE}",
    f"{BARE}/",
    f"{BARE}/v1",
    f"http://{BARE}/esscher.v1.ScoringService/Score",
]


async def connect(address):
    AsyncClient(address)


CALLERS = {
    "client": Client,
    "async client": lambda address: asyncio.run(connect(address)),
    "trl's reward": EsscherReward,
    "verl": lambda address: compute_score("data", "text", None, {"prompt": "p"}, address=address),
    "verl's maker": make_compute_score,
}


@pytest.mark.parametrize("call", CALLERS.values(), ids=CALLERS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_told_to_lose_what_is_around_it(address, call):
    with pytest.raises(ValueError, match="without scheme and path") as caught:
        call(address)
    assert str(caught.value) == f"address is {address!r}: without scheme and path it is {BARE!r}"


@pytest.mark.parametrize(
    "address", ["http://localhost", "localhost", ":1", "localhost:x", "localhost:65536", "http://"]
)
def test_an_address_has_a_host_and_a_port(address):
    with pytest.raises(ValueError, match=r"it must be 'host:port' and nothing else, such as '127\.0"):
        Client(address)


@pytest.mark.parametrize("address", [BARE, "127.0.0.1:1", "[::1]:50051", "server.example:65535"])
def test_an_address_may_be_of_any_kind(address):
    Client(address).close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "FILE", "-o", "out.jsonl", "--server"),
        ("train", "-o", "run", "--prompts", "FILE", "--reward", "esscher.lm.rewards:sentiment", "--prior-server"),
    ],
)
def test_commands_say_so_before_anything_is_read(arguments, tmp_path, esscher, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = [tmp_path / "missing.jsonl" if argument == "FILE" else argument for argument in arguments]
    code, out, err = esscher(*missing, f"http://{BARE}")
    assert (code, out) == (2, "")
    assert f"without scheme and path it is '{BARE}'" in err


HOSTS = {
    "http://127.0.0.1": "127.0.0.1",
    "https://localhost:50051/": "localhost",
    "127.0.0.1:50051": "127.0.0.1",
    "localhost:0": "localhost",
    "[::1]:50051": "[::1]",
    "grpc://[::1]": "[::1]",
}


@pytest.mark.parametrize(("host", "bare"), HOSTS.items())
def test_a_host_to_listen_on_is_told_to_lose_what_is_around_it(host, bare, esscher):
    message = (
        f"host is {host!r}: it must be a name or an IP address alone, such as {bare!r}; the port is given by itself"
    )
    for insecure in (False, True):
        with pytest.raises(ValueError, match="a name or an IP address alone") as caught:
            check_host(host, insecure=insecure)
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="a name or an IP address alone"):
        RewardServer(None, host)
    code, _, err = esscher("serve", "--prior", alice_folder(), "--host", host)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_host_to_listen_on_may_be_of_any_kind(host):
    check_host(host, insecure=False)


# Folders.


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    files.write(rows(), folder / "0.parquet")
    return folder


READERS = {
    "evaluate": ("evaluate", "FOLDER"),
    "one of several": ("evaluate", "FILE", "FOLDER"),
}


@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
def test_a_folder_of_files_is_read_whole(arguments, shards, tmp_path, esscher, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"FOLDER": shards, "FILE": shards / "0.parquet"}
    code, _, err = esscher(*(given.get(argument, argument) for argument in arguments))
    assert code == 0, err


def test_score_takes_files_one_by_one(shards, tmp_path, esscher, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = esscher("score", shards, "-o", "out.parquet", "--prior", "alice")
    assert (code, out) == (2, "")
    assert f"{shards} is a folder: here files are taken one by one, such as {shards}/0.parquet" in err


WRITERS = {
    "score's output": ("score", "FILE", "--prior", "alice", "-o"),
    "a page": ("evaluate", "FILE", "--html"),
    "a picture": ("prototype", "FILE", "--picture"),
    "a page of a prototype": ("prototype", "FILE", "--html"),
    "a page of a comparison": ("compare", "OTHER", "--prior", "FILE", "--html"),
    "a picture of a comparison": ("compare", "OTHER", "--prior", "FILE", "--picture"),
    "a page of a mismatch": ("mismatch", "FILE", "--html"),
    "the demo's page": ("demo", "-o"),
}


@pytest.mark.parametrize("arguments", WRITERS.values(), ids=WRITERS)
def test_a_folder_to_write_to_is_called_one(arguments, shards, esscher, monkeypatch):
    monkeypatch.chdir(shards)
    folder = shards / "folder"
    folder.mkdir()
    given = {"FILE": shards / "0.parquet", "OTHER": shards / "1.parquet"}
    code, out, err = esscher(*(given.get(argument, argument) for argument in arguments), folder)
    assert (code, out) == (2, "")
    assert f"{folder} is a folder: name a file" in err


def test_a_folder_of_prompts_is_called_one(shards, tmp_path, esscher):
    code, _, err = esscher(
        "train", "--prompts", shards, "--reward", "esscher.lm.rewards:sentiment", "-o", tmp_path / "run"
    )
    assert code == 2
    assert f"{shards} is a folder: name a file" in err


def test_a_run_s_folder_that_is_a_file_is_told(tmp_path, esscher):
    file = tmp_path / "prompts.txt"
    file.write_text("Alice was\n")
    code, _, err = esscher(
        "train", "--prompts", file, "--reward", "esscher.lm.rewards:sentiment", "-o", file, "--model", alice_folder()
    )
    assert code == 2
    assert str(file) in err
