// Files of ComfyUI's input folder: how one gets there, where it is seen, and how loud it is.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const POINTS = 400; // of a waveform
const HEIGHT = 28; // of its picture; pixels

/** Where the server shows a file of the input folder. */
export function address(name) {
  const [file, ...folders] = name.split(/[\\/]/).reverse();
  const query = new URLSearchParams({ filename: file, subfolder: folders.reverse().join("/"), type: "input" });
  return api.apiURL(`/view?${query}`);
}

/** A file that somebody chooses; null for none. */
export function chooseFile(accept) {
  return new Promise((resolve) => {
    const input = Object.assign(document.createElement("input"), { type: "file", accept });
    input.addEventListener("change", () => resolve(input.files[0] ?? null));
    input.addEventListener("cancel", () => resolve(null));
    input.click();
  });
}

/** Put a file into the input folder, and return its name there; null where ComfyUI refuses it, as it does when it is too large. */
export async function upload(file) {
  const body = new FormData();
  body.append("image", file);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) {
    const detail = `ComfyUI refuses ${file.name} (${answer.status} ${answer.statusText}): put it into the input folder yourself, and write its name.`;
    app.extensionManager.toast.add({ severity: "error", summary: "No upload", detail });
    return null;
  }
  const { name, subfolder } = await answer.json();
  return subfolder ? `${subfolder}/${name}` : name;
}

const waveforms = new Map(); // by the name of a file

/** A picture of how loud a sound is over time. */
export function waveform(name) {
  if (!waveforms.has(name)) waveforms.set(name, drawWaveform(name).catch(() => ""));
  return waveforms.get(name);
}

async function drawWaveform(name) {
  const answer = await fetch(address(name));
  const sound = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(await answer.arrayBuffer());
  const samples = sound.getChannelData(0);
  const canvas = Object.assign(document.createElement("canvas"), { width: POINTS, height: HEIGHT });
  const context = canvas.getContext("2d");
  context.fillStyle = "#7fd6b0";
  const size = Math.max(1, Math.floor(samples.length / POINTS));
  for (let point = 0; point < POINTS; point++) {
    let loudest = 0;
    for (let at = point * size; at < (point + 1) * size; at++) loudest = Math.max(loudest, Math.abs(samples[at] ?? 0));
    context.fillRect(point, (HEIGHT * (1 - loudest)) / 2, 1, Math.max(1, HEIGHT * loudest));
  }
  return canvas.toDataURL();
}
