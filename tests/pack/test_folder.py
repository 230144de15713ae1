"""The folder of the pack is called as the user, or a browser that unpacks it a second time, likes."""

import json
from urllib.parse import quote

import pytest
from pack.client import Client
from pack.host import serve

pytestmark = [pytest.mark.comfy, pytest.mark.slow]

FOLDERS = ("LTX-2 nodes {\u00e4 0.9", "LTX-2 nodes {\u00e4 0.9 (1)")  # the host serves none of these


def test_one_of_two_folders_of_any_name_works_and_the_other_is_told(host, tmp_path):
    with serve(host, tmp_path, folders=FOLDERS) as server:
        client = Client(server.address)
        _, folder = client.object_info()["LTX2AVSample"]["python_module"].split(".", 1)
        asked = [path for path in json.loads(client.fetch("/extensions")) if "LTX-2" in path]
        asked.append(f"/extensions/{quote(folder.partition('.')[0])}/docs/LTX2AVSample.md")
        asked.append(f"/api/workflow_templates/{quote(folder)}/text_to_video.json")
        assert len(asked) > 10 and all(map(client.fetch, asked))
        for path in ("%2e%2e/pyproject.toml", "no.js"):
            with pytest.raises(OSError, match="404"):
                client.fetch(f"/extensions/{quote(folder)}/{path}")
        (line,) = [line for line in server.log.splitlines() if "twice" in line]
        assert all(map(line.count, FOLDERS))
