"""The code of README and pages runs, and what they say of the repository is so."""

from __future__ import annotations

import doctest
import re
import runpy
import subprocess
from pathlib import Path

import pytest

from models import alice

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readmes_python_runs(capsys):
    from esscher.server.models import Models
    from esscher.server.serving import running_in_thread

    on_arrays, over_grpc, in_process_only, preset = blocks("python")
    names = {}
    exec(on_arrays, names)
    assert names["report"].target.inference_gap.value > 0
    assert "Estimate(" in capsys.readouterr().out
    in_process = names["report"].reward
    with running_in_thread(Models(prior=alice())) as address:
        exec(over_grpc.replace("127.0.0.1:50051", address), names)
    assert names["report"].reward == in_process
    exec(in_process_only, names)
    assert names["k3"].shape == (2,)
    assert names["exact_kl"] == pytest.approx([0, 0], abs=1e-7)
    exec(preset, names)
    assert "agg:token-mean" in capsys.readouterr().out


def test_the_first_example_is_short():
    assert len(blocks("python")[0].strip().splitlines()) <= 14


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_make_alone_lists_the_targets(target):
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"make {target} " in listed


def test_the_map_names_what_is_there():
    for name in re.findall(r"\b(\w+\.py)\b", README):
        assert list((ROOT / "python/esscher").rglob(name)) or (ROOT / "tests" / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_pages_code_prints_what_it_shows(page):
    text = page.read_text()
    # The end of a block would count as output.
    examples = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    report = []
    result = doctest.DocTestRunner(optionflags=flags).run(
        doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0), out=report.append
    )
    assert not result.failed, "".join(report)
    assert result.attempted >= text.count("```python")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_and_names_is_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:tests|python|docs)/[\w/]+\.py)`", text):
        assert (ROOT / name).exists(), name


def test_the_table_of_estimators_is_what_enumeration_gives():
    figures = runpy.run_path(str(ROOT / "docs/figures.py"))
    page = (ROOT / "docs/kl.md").read_text()
    assert figures["table"]() in page
    kl, _ = figures["spreads"](*figures["world"]())
    assert f"whose KL is {kl:.2f} nats" in " ".join(page.split())


@pytest.mark.parametrize("script", ["frontier_figure.py", "training_figure.py", "trend_figure.py"])
def test_scripts_that_are_run_by_hand_find_what_they_import(script):
    """What they need takes minutes."""
    assert callable(runpy.run_path(str(ROOT / "docs" / script), run_name="imported")["main"])
