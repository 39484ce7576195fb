"""What a README shows and where it leads: pictures, links, commands."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from io import StringIO
from itertools import dropwhile
from pathlib import Path

import pytest
from dotenv import dotenv_values
from readmes import COMMAND, PAGES, READMES, blocks, headings, links, pictures
from test_notebooks_run import assert_alike

from benchmarks import search
from benchmarks.machine import RESULTS
from images.loop import loop, loop_in_steps
from images.pages import LARGEST, PICTURES
from wine_quality.config import ROOT, settings
from wine_quality.plots import as_png

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@named
def test_every_link_within_the_repository_finds_its_file_and_its_heading(page):
    for link in links(page):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.resolve().is_relative_to(ROOT), link
            assert target.exists(), link
            assert not anchor or anchor in headings(target), link


@named
def test_the_files_that_a_table_names_are_there(page):
    cells = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", page.read_text(), re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([\w./]+\.py|[\w./]+/)`", cell)]
    assert [name for name in names if not (page.parent / name).exists()] == []


def test_every_page_can_be_reached_from_the_front_page():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        near = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if not link.startswith("http")}
        waiting += [path for path in near - reached if path.suffix == ".md"]
        waiting += [path / "README.md" for path in near if (path / "README.md") in set(PAGES) - reached]
    assert reached == set(PAGES)


def test_the_readmes_show_what_make_images_draws_and_nothing_else():
    shown = {Path(image).name for page in READMES for _, image in pictures(page)}
    drawn = {f"{name}.png" for name in PICTURES}
    assert shown == drawn == {path.name for path in ROOT.glob("images/*.png")}


def test_the_figures_that_need_no_run_are_as_the_code_draws_them_now():
    found, simulated = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("search", "simulation"))
    figures = {"the-loop": loop(), "loop-in-steps": loop_in_steps(simulated), "search": search.draw(found)}
    for name, figure in figures.items():
        assert_alike(as_png(figure), (ROOT / "images" / f"{name}.png").read_bytes())


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_light_and_says_nothing_of_the_machine(name):
    content = (ROOT / "images" / f"{name}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < LARGEST
    assert not [word for word in (b"tEXt", b"iTXt", b"eXIf") if word in content]


@named
def test_every_picture_is_there_and_has_an_alternative_text(page):
    for words, image in pictures(page):
        assert (page.parent / image).is_file()
        assert len(words.split()) > 10


@named
def test_every_command_is_one_that_there_is(page):
    for block in blocks(page):
        for program, *words in commands(block.text) if block.language == COMMAND else []:
            if program == "make":
                assert {word for word in words if "=" not in word} <= TARGETS, f"line {block.line}"
            elif program not in ("export", "."):
                assert shutil.which(program, path=Path(sys.executable).parent) or shutil.which(program), program
    assert set(re.findall(r"`(?:[A-Z_]+=\S+ )*make ([a-z-]+)", page.read_text())) <= TARGETS


def commands(text: str) -> Iterator[list[str]]:
    for line in re.split(r"\n(?! )", text.strip()):
        words = [word.removeprefix(".venv/bin/") for word in shlex.split(line)]
        yield list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))


def test_every_target_of_the_makefile_is_documented():
    words = " ".join(page.read_text() for page in PAGES)
    assert not [target for target in TARGETS - {"help"} if not re.search(rf"make {target}\b", words)]


def test_the_table_lists_all_settings():
    documented = set(re.findall(r"`(WINE_[A-Z0-9_]+)`", (ROOT / "docs" / "settings.md").read_text()))
    fields = {f"WINE_{name.upper()}" for name in type(settings()).model_fields}
    assert documented == fields - {"WINE_TRACKING_URI"} | {"WINE_POSTGRES"}  # MLFLOW_TRACKING_URI; only of make cluster


def block_of(page: str, language: str) -> str:
    (found,) = (block.text for block in blocks(ROOT / page) if block.language == language)
    return found


def test_the_policy_for_a_user_on_aws_allows_what_the_flow_does():
    listed, objects = json.loads(block_of("orchestration/README.md", "json"))["Statement"]
    assert listed["Action"] == "s3:ListBucket"
    assert objects["Action"] == ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    assert objects["Resource"] == f"{listed['Resource']}/runs/*"


def test_the_lines_for_aws_are_settings_as_a_dotenv_file_has_them():
    found = dotenv_values(stream=StringIO(block_of("orchestration/README.md", "ini")))
    assert found["WINE_BUCKET"] == "your-bucket"
    names = {"ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"}
    assert {name for name in found if name.startswith("AWS_")} == {f"AWS_{name}" for name in names}
