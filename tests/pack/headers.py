"""Runs inside ComfyUI's own Python: how many files the loader opens to find the parts of a model, from run to run.

In the folder is a model in parts. Prints as JSON whether its video VAE was found and how many files were opened: at
first, without a change, with a note that it is being downloaded, without that note, and when it was written anew.
"""

import json

from inside import folder, part

loader, files = part("nodes.load"), part("ltx2_core.checkpoint.files")
(vae,) = folder.glob("models/vae/*-conv.safetensors")
note, opened, read_header, report = vae.with_name(f"{vae.name}.aria2"), [], files._read_header, []


def counted(path):
    opened.append(path)
    return read_header(path)


files._read_header = counted
for change in (None, None, note.touch, note.unlink, lambda: vae.write_bytes(vae.read_bytes())):
    if change is not None:
        change()
    opened.clear()
    found = loader.LoadModel.fingerprint_inputs("ltx-2.5-tiny-dev-transformer.safetensors")
    report.append((any(str(vae) == path for path, *_ in found), len(opened)))
print(json.dumps(report))
