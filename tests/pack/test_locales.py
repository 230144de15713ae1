"""Every node has its names in every language, and they are those that are served.

After changing a node, write the files anew: python tests/pack/locales.py
"""

import json

import pytest
from pack.host import PACK
from pack.locales import FOLDER, LANGUAGES, all_files, as_text, words

pytestmark = pytest.mark.comfy


def test_the_files_are_those_that_the_nodes_and_the_words_make(object_info):
    ours = {name: info for name, info in object_info.items() if info["python_module"] == f"custom_nodes.{PACK}"}
    files = all_files(ours)
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.json")} == files.keys()
    for path, content in files.items():
        written = (FOLDER / path).read_text(encoding="utf-8")
        assert written == as_text(content), "python tests/pack/locales.py writes it anew"


def test_comfyui_serves_them(client, object_info):
    served = json.loads(client.fetch("/i18n"))
    for language in LANGUAGES:
        assert served[language]["nodeDefs"]["LTX2AVSample"]["display_name"] != "LTX-2 Dual-Stream Sampler"
        assert served[language]["settings"]["ltx2av_LivePreview"]["name"]
        assert served[language]["nodeCategories"]["sampling"]


def test_no_word_is_missing_or_empty():
    for section in words().values():
        assert all(all(each.values()) for each in section.values())
