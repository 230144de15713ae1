"""README.md names every workflow, and every file with its link, as the code has them."""

import re

import pytest
from pack.host import REPOSITORY
from pack.links import FILES, HUB, LICENCES
from pack.readme import README, TABLES, table_in
from pack.workflow import SHIPPED

PAGE = README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_the_one_that_the_code_makes(name):
    assert table_in(PAGE, name) == TABLES[name](), "PYTHONPATH=tests python tests/pack/readme.py writes it anew"


def test_every_workflow_is_there_with_its_picture():
    told = re.findall(r'<img src="(workflows/.*?)".*?`(\w+)`', table_in(PAGE, "workflows"))
    assert {name for _, name in told} == {path.stem for path in SHIPPED}
    assert all((README.parent / picture).is_file() for picture, _ in told)


def test_links_to_weights_and_licences_are_those_of_the_loaders():
    urls = {file.url for file in FILES} | {*LICENCES.values()}
    told = {url for url in re.findall(r"\((https://[^)]*)\)", PAGE) if url in urls or url.startswith(HUB)}
    assert told == urls


def test_the_page_of_the_loader_has_every_file_of_2_5_with_its_link():
    page = (REPOSITORY / "js" / "docs" / "LTX2AVLoadModel.md").read_text(encoding="utf-8")
    urls = {file.url for file in FILES if file.is_newest}
    assert len(urls) == 13 and urls == {*re.findall(rf"\(({HUB}/[^)]*\.safetensors)\)", page)}
