// The strip of LTX-2 Timeline: prompts, pictures, a sound, references, characters and what is made anew, each at its second.
//
// The widget of the node keeps the strip as JSON (ltx2_core/conditioning/timeline.py checks it); here it is drawn, and every
// change is written back into it, so that it is saved, copied and undone with the graph.
import { app } from "../../scripts/app.js";
import { after } from "./changes.js";
import { addElement } from "./element.js";
import { address, chooseFile, upload, waveform } from "./files.js";
import { hide, redraw } from "./hide.js";
import { addStyle } from "./style.js";
import { warn } from "./warn.js";

const NAME = "ltx2av_timeline";
const LANE = 28; // pixels
const ROOM = 358;
const CELL = 8; // frames of a latent, to which entries snap
const LEAST_RANGE = 1; // cells
const WIDEST = 32; // times the width of the node

// What lies in each lane: its button, its file types, a new entry at a second, and the fields that are edited.
const LANES = {
  pictures: { add: "picture", files: "image/*", make: (at, file) => ({ file, at, strength: 1 }) },
  prompts: { add: "prompt", make: (at) => ({ text: "", at }) },
  sounds: { add: "sound", files: "audio/*,video/*", one: true, make: (at, file) => ({ file, start: 0, noise: 0 }) },
  references: { add: "reference", files: "video/*,audio/*", make: (at, file) => ({ file, strength: 1 }) },
  characters: { add: "character", files: "image/*,audio/*", make: (_, file) => ({ file, voice: "", way: "auto", strength: 1 }) },
  retakes: { add: "retake", make: (at, _, step) => ({ start: at, end: at + 4 * step, streams: "picture and sound" }) },
};
const NUMBERS = { at: [0, 3600], start: [0, 86400], end: [0, 3600], strength: [0, 1], noise: [0, 1] };
const WHOLE = { seconds: [0.1, 3600], fps: [1, 240] };
const CHOICES = {
  streams: ["picture and sound", "picture", "sound"],
  way: ["auto", "keyframe", "ingredients", "voice only"],
};

addStyle(`
.ltx2av-timeline { box-sizing: border-box; display: flex; flex-direction: column; gap: 4px; height: 100%;
  min-height: ${ROOM}px; font-size: 11px; color: var(--input-text, #ddd); }
.ltx2av-timeline > div { flex: none; display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
.ltx2av-timeline :is(button, input, select, textarea) { font: inherit; color: inherit; border: 1px solid #fff3;
  border-radius: 4px; background: #0004; padding: 1px 5px; }
.ltx2av-timeline input[type=number] { width: 58px; }
.ltx2av-timeline textarea { flex: 1 1 100%; height: 44px; resize: none; }
.ltx2av-timeline > .ltx2av-strip { flex: 1 1 0; display: block; overflow: auto hidden; border-radius: 6px;
  background: #08080f; color: #ddd; }
.ltx2av-strip > div { position: relative; min-height: 100%; }
.ltx2av-strip section { position: relative; height: ${LANE}px; border-top: 1px solid #fff1; }
.ltx2av-strip section:empty::before { content: attr(data-lane); line-height: ${LANE}px; padding-left: 4px; opacity: 0.35; }
.ltx2av-strip header { position: relative; height: 16px; color: #999; cursor: pointer; }
.ltx2av-strip header span { position: absolute; border-left: 1px solid #fff4; padding-left: 2px; }
.ltx2av-strip article { position: absolute; inset: 2px auto 2px 0; overflow: hidden; white-space: nowrap;
  box-sizing: border-box; min-width: 14px; padding: 1px 4px; border: 1px solid #fff5; border-radius: 4px;
  background: #2b3a55 center / cover; cursor: grab; touch-action: none; }
.ltx2av-strip [data-lane=prompts] article { background-color: #3b2b55; }
.ltx2av-strip [data-lane=sounds] article { background-color: #1e4536; background-size: 100% 100%; }
.ltx2av-strip [data-lane=references] article { background-color: #4a3b1e; }
.ltx2av-strip [data-lane=characters] article { background-color: #1e3f4a; background-size: contain;
  background-repeat: no-repeat; background-position: right; }
.ltx2av-strip [data-lane=retakes] article { background-color: #55222b; }
.ltx2av-strip article:focus, .ltx2av-strip article[aria-selected=true] { outline: 2px solid #7db2ff; }
.ltx2av-strip i { position: absolute; inset: 0 auto 0 0; width: 1px; background: #7db2ff; pointer-events: none; }
.ltx2av-timeline output { color: var(--descrip-text, #999); }
.ltx2av-timeline output.ltx2av-wrong { color: #ff8d8d; }
`);

/** Draw the strip of `node` in place of its JSON. */
export function drawTimeline(node) {
  const widget = node.widgets.find((each) => each.name === "timeline");
  if (widget) new Strip(node, widget);
}

class Strip {
  marker = 0; // seconds, where new entries stand
  zoom = 1;
  chosen = null; // [lane, number]
  isWriting = false; // the JSON, whose widget calls us back then

  constructor(node, widget) {
    [this.node, this.widget] = [node, widget];
    this.element = create("div", { className: "ltx2av-timeline" });
    this.tools = create("div");
    this.strip = create("div", { className: "ltx2av-strip" });
    this.track = create("div");
    this.editor = create("div");
    this.frames = output("");
    [this.ruler, this.mark] = [create("header"), create("i")];
    this.ruler.addEventListener("pointerdown", (event) => {
      this.marker = this.snap(this.secondAt(event));
      this.placeMark();
    });
    this.strip.append(this.track);
    this.element.append(this.tools, this.strip, this.editor);
    this.element.addEventListener("keydown", (event) => this.press(event));
    for (const type of ["pointerdown", "wheel"]) this.element.addEventListener(type, stop);
    this.strip.addEventListener("dragover", (event) => event.preventDefault());
    this.strip.addEventListener("drop", (event) => this.drop(event));
    addElement(node, NAME, this.element, ROOM);
    this.follow();
    hide(widget, true);
    redraw(node);
    node.setSize([Math.max(node.size[0], 520), node.computeSize()[1]]);
    this.show();
  }

  // Draw anew whenever somebody else has set the JSON: a workflow that is loaded, a pasted node, an undo.
  follow() {
    after(this.widget, "callback", () => {
      if (!this.isWriting) this.show();
    });
    after(this.node, "onConfigure", () => {
      hide(this.widget, true);
      this.show();
    });
  }

  /** The strip as the JSON says it; null where that is none. */
  read() {
    try {
      const content = JSON.parse(this.widget.value);
      const whole = { seconds: 5, fps: 24, ...content };
      return isObject(content) && isStrip(whole) ? whole : null;
    } catch {
      return null;
    }
  }

  /** Write the strip back, and draw it. */
  write(content) {
    this.keep(content);
    this.show();
    this.makeStep();
  }

  /** Write the strip back alone. */
  keep(content) {
    const filled = Object.entries(content).filter(([lane, entries]) => !LANES[lane] || entries.length);
    this.keepText(JSON.stringify(Object.fromEntries(filled), null, 1));
    this.content = content;
  }

  keepText(text) {
    const before = this.widget.value;
    this.isWriting = true;
    this.widget.value = text;
    this.isWriting = false;
    this.node.onWidgetChanged?.(this.widget.name, text, before, this.widget);
  }

  /** Let what has been changed be undone. */
  makeStep() {
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
  }

  change(act) {
    const content = this.read();
    act(content);
    this.write(content);
  }

  /** Change what a field says. All fields and entries stay where they are: somebody is among them. */
  changeField(act, done) {
    const content = this.read();
    act(content);
    this.keep(content);
    if (!done) return;
    this.fitTrack();
    this.makeStep();
  }

  get step() {
    return CELL / this.content.fps;
  }

  /** The nearest second where something can begin, within the clip. */
  snap(second) {
    const cells = Math.round(second / this.step);
    return round(Math.min(Math.max(0, cells * this.step), this.content.seconds));
  }

  show() {
    this.content = this.read();
    if (!this.content) {
      for (const each of [this.track, this.editor]) each.replaceChildren();
      const [edit, wrong] = [button("edit the JSON", () => this.editText()), output("This is no timeline.", true)];
      this.tools.replaceChildren(wrong, edit);
      return;
    }
    this.showTools();
    this.showTrack();
    this.showEditor();
  }

  // A strip that another program wrote wrongly is mended as text.
  editText() {
    const text = create("textarea", { value: this.widget.value });
    const set = (value, done) => {
      this.keepText(value);
      if (done) this.show();
      if (done) this.makeStep();
    };
    this.editor.replaceChildren(written(text, set));
  }

  showTools() {
    const number = (name) => {
      const set = (next, done) => this.changeField((content) => (content[name] = next), done);
      return labelled(name, numberInput(this.content[name], ...WHOLE[name], set));
    };
    this.tools.replaceChildren(...Object.keys(WHOLE).map(number), this.frames);
    for (const [lane, { add }] of Object.entries(LANES)) this.tools.append(button(`+ ${add}`, () => this.add(lane)));
    const zoom = create("span"); // both in one line
    zoom.append(button("-", () => this.enlarge(0.5), "zoom out"), button("+", () => this.enlarge(2), "zoom in"));
    this.tools.append(zoom);
  }

  enlarge(times) {
    this.zoom = Math.min(WIDEST, Math.max(1, this.zoom * times));
    this.show();
  }

  showTrack() {
    const lanes = Object.keys(LANES).map((lane) => {
      const section = create("section");
      section.dataset.lane = lane;
      section.append(...(this.content[lane] ?? []).map((_, number) => this.item(lane, number)));
      return section;
    });
    this.track.replaceChildren(this.ruler, ...lanes, this.mark);
    this.fitTrack();
  }

  item(lane, number) {
    const item = create("article", { tabIndex: 0 });
    item.setAttribute("role", "button");
    item.setAttribute("aria-selected", String(this.isChosen(lane, number)));
    item.addEventListener("focus", () => this.choose(lane, number));
    item.addEventListener("pointerdown", (event) => this.drag(event, item, lane, number));
    return item;
  }

  /** Let the ruler and all entries on the track say what they are now. */
  fitTrack() {
    const { seconds, fps } = this.content;
    this.frames.textContent = `${Math.max(0, Math.round((seconds * fps - 1) / CELL)) * CELL + 1} frames`;
    this.track.style.width = `${100 * this.zoom}%`;
    this.ruler.replaceChildren();
    const every = niceStep(seconds / (8 * this.zoom));
    for (let time = 0; time < seconds; time = round(time + every)) {
      const tick = create("span", { textContent: `${time} s` });
      tick.style.left = this.left(time);
      this.ruler.append(tick);
    }
    this.placeMark();
    for (const lane of Object.keys(LANES)) {
      this.content[lane]?.forEach((entry, number) => this.fit(this.itemOf(lane, number), lane, entry, number));
    }
  }

  fit(item, lane, entry, number) {
    item.textContent = item.title = title(entry);
    item.setAttribute("aria-label", `${LANES[lane].add} ${number + 1}: ${title(entry)}`);
    this.place(item, lane, entry);
    item.style.backgroundImage = ""; // of a file that it had before
    if ((lane === "pictures" || lane === "characters") && entry.file) item.style.backgroundImage = `url("${address(entry.file)}")`;
    if (lane === "sounds" && entry.file) waveform(entry.file).then((url) => (item.style.backgroundImage = `url("${url}")`));
  }

  place(item, lane, entry) {
    const [from, to] = this.span(lane, entry);
    item.style.left = this.left(from);
    item.style.width = `${(100 * (to - from)) / this.content.seconds}%`;
  }

  placeMark() {
    this.mark.style.left = this.left(this.marker);
  }

  /** From when to when an entry is drawn. */
  span(lane, entry) {
    const { seconds, prompts = [] } = this.content;
    if (lane === "retakes") return [entry.start, Math.max(entry.end, entry.start)];
    if (lane === "prompts") {
      const later = prompts.map((each) => each.at ?? 0).filter((at) => at > (entry.at ?? 0));
      return [entry.at ?? 0, Math.min(seconds, ...later)];
    }
    if (lane === "pictures") {
      const at = Math.min(entry.at ?? 0, Math.max(0, seconds - this.step));
      return [at, Math.min(seconds, at + this.step)];
    }
    return [0, seconds];
  }

  left(second) {
    return `${(100 * second) / this.content.seconds}%`;
  }

  secondAt({ clientX }) {
    const { left, width } = this.track.getBoundingClientRect();
    return ((clientX - left) / width) * this.content.seconds;
  }

  isChosen(lane, number) {
    return this.chosen?.[0] === lane && this.chosen[1] === number;
  }

  choose(lane, number) {
    if (this.isChosen(lane, number)) return;
    this.chosen = [lane, number];
    for (const each of this.track.querySelectorAll("article")) each.setAttribute("aria-selected", "false");
    this.itemOf(lane, number)?.setAttribute("aria-selected", "true");
    this.showEditor();
  }

  itemOf(lane, number) {
    return this.track.querySelector(`[data-lane=${lane}]`)?.children[number];
  }

  // Moves an entry, or the nearer end of a range; one that lies still is only chosen.
  drag(event, item, lane, number) {
    item.focus(); // ends what is being written elsewhere, of which there may be another entry then
    const entry = this.content[lane][number];
    const begun = this.secondAt(event);
    const before = { ...entry };
    const end = lane === "retakes" ? nearEnd(event, item) : null;
    const act = new AbortController();
    const finish = (commit) => {
      act.abort();
      if (!commit) this.show(); // as it was
      if (!commit || !this.content[lane]) return;
      const moved = this.content[lane][number];
      if (JSON.stringify(moved) !== JSON.stringify(before)) this.write(this.content);
      this.itemOf(lane, number)?.focus();
    };
    const listen = (type, hear) => window.addEventListener(type, hear, { signal: act.signal, capture: true });
    listen("pointermove", (moved) => {
      Object.assign(entry, before);
      this.shift(lane, entry, this.secondAt(moved) - begun, end);
      this.place(item, lane, entry);
    });
    listen("pointerup", () => finish(true));
    listen("pointercancel", () => finish(false));
  }

  /** Move `entry` by so many seconds, as a whole or at one `end`. */
  shift(lane, entry, by, end = null) {
    if (lane === "retakes") {
      const least = LEAST_RANGE * this.step;
      if (end === "start") entry.start = Math.min(this.snap(entry.start + by), round(entry.end - least));
      else if (end === "end") entry.end = Math.max(this.snap(entry.end + by), round(entry.start + least));
      else {
        const length = entry.end - entry.start;
        entry.start = Math.min(this.snap(entry.start + by), Math.max(0, this.snap(this.content.seconds - length)));
        entry.end = round(entry.start + length);
      }
    } else if (lane === "pictures" || lane === "prompts") entry.at = this.snap((entry.at ?? 0) + by);
  }

  press(event) {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || !this.act(event)) return;
    event.preventDefault();
    event.stopPropagation(); // the graph has other uses for these keys
  }

  /** Do what a key asks for; tell whether it does anything. */
  act({ key, shiftKey, target }) {
    const zoom = { "+": 2, "-": 0.5 }[key];
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (zoom) this.enlarge(zoom);
    if (zoom || !target.closest("article") || !this.chosen) return Boolean(zoom);
    const [lane, number] = this.chosen;
    if (direction) {
      const by = direction * (shiftKey ? Math.max(1, this.step) : this.step);
      this.change((content) => this.shift(lane, content[lane][number], by));
      this.itemOf(lane, number)?.focus();
    } else if (key === "Delete" || key === "Backspace") this.remove(lane, number);
    else if (key === "Enter") this.editor.querySelector("textarea, input")?.focus();
    else return false;
    return true;
  }

  remove(lane, number) {
    this.chosen = null;
    this.change((content) => content[lane].splice(number, 1));
    this.track.querySelector("article")?.focus();
  }

  async add(lane, at = this.marker, file = null) {
    const { files, make, one } = LANES[lane];
    if (files && !file) file = await chooseFile(files);
    if (files && !file) return;
    const name = file ? await upload(file) : "";
    if (name === null) return;
    this.change((content) => {
      const others = one ? [] : (content[lane] ?? []);
      content[lane] = [...others, make(this.freePlace(others, at), name, this.step)];
      this.chosen = [lane, content[lane].length - 1];
    });
    this.itemOf(...this.chosen)?.focus();
  }

  /** The first place from `at` on where none of `others` stands: of two prompts, or pictures, in one place one would be lost. */
  freePlace(others, at) {
    let place = this.snap(at);
    const isTaken = (each) => Math.abs((each.at ?? each.start ?? 0) - place) < this.step / 2;
    while (place < this.content.seconds && others.some(isTaken)) place = this.snap(place + this.step);
    return place;
  }

  async drop(event) {
    event.preventDefault();
    event.stopPropagation();
    if (!this.content) return;
    const at = this.secondAt(event);
    for (const file of event.dataTransfer.files) {
      const kind = file.type.split("/")[0];
      const lane = { image: "pictures", audio: "sounds", video: "references" }[kind];
      if (lane) await this.add(lane, at, file);
      else warn("Not on the timeline", `${file.name} is no picture, sound or video, which are all that a timeline takes.`);
    }
  }

  /** The fields of the chosen entry. */
  showEditor() {
    const [lane, number] = this.chosen ?? [];
    const entry = this.content[lane]?.[number];
    this.editor.replaceChildren();
    if (!entry) return;
    for (const [name, value] of Object.entries({ ...LANES[lane].make(0, "", 0), ...entry })) {
      const set = (next, done) => this.changeField((content) => (content[lane][number][name] = next), done);
      this.editor.append(field(name, value, set));
    }
    this.editor.append(button("remove", () => this.remove(lane, number)));
  }
}

function field(name, value, set) {
  if (name === "text") {
    return written(create("textarea", { value, placeholder: "what is seen and heard from here on" }), set);
  }
  if (NUMBERS[name]) return labelled(name, numberInput(value, ...NUMBERS[name], set));
  const input = create(CHOICES[name] ? "select" : "input");
  input.append(...(CHOICES[name] ?? []).map((word) => create("option", { textContent: word, value: word })));
  input.value = value;
  const chosen = name === "voice" ? [button("choose", () => chooseVoice(input))] : [];
  return labelled(name, written(input, set), ...chosen);
}

/** Hand on what is written into `input` as it is written, for a run may begin meanwhile; and again when it is done. */
function written(input, set) {
  for (const type of ["input", "change"]) input.addEventListener(type, () => set(input.value, type === "change"));
  return input;
}

function numberInput(value, least, most, set) {
  const input = create("input", { type: "number", min: least, max: most, step: "any", value });
  return written(input, (text, done) => {
    const fits = text !== "" && isWithin(Number(text), [least, most]);
    if (done && !fits) input.value = value;
    if (done || fits) set(Number(input.value), done);
    if (done) value = input.value;
  });
}

async function chooseVoice(input) {
  const file = await chooseFile("audio/*,video/*");
  const name = file && (await upload(file));
  if (!name) return;
  input.value = name;
  input.dispatchEvent(new Event("change"));
}

/** Whether all of `content` can be drawn. */
function isStrip(content) {
  const isRight = ([name, value]) => (NUMBERS[name] ? isWithin(value, NUMBERS[name]) : typeof value === "string");
  const isEntry = (entry) => isObject(entry) && Object.entries(entry).every(isRight);
  const isLane = (entries) => entries === undefined || (Array.isArray(entries) && entries.every(isEntry));
  const isWhole = ([name, limits]) => isWithin(content[name], limits);
  return Object.entries(WHOLE).every(isWhole) && Object.keys(LANES).every((lane) => isLane(content[lane]));
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isWithin = (value, [least, most]) => typeof value === "number" && value >= least && value <= most;

function labelled(name, ...inputs) {
  const label = create("label");
  label.append(`${name} `, ...inputs);
  return label;
}

function button(text, act, title = text) {
  const made = create("button", { type: "button", textContent: text, title });
  made.addEventListener("click", act);
  return made;
}

function output(text, wrong = false) {
  return create("output", { textContent: text, className: wrong ? "ltx2av-wrong" : "" });
}

const create = (tag, content = {}) => Object.assign(document.createElement(tag), content);
const stop = (event) => event.stopPropagation();
const round = (second) => Math.round(second * 1000) / 1000;
const title = ({ text, file, streams }) => String(text ?? file ?? streams ?? "");

/** A step of the ruler of about so many seconds. */
function niceStep(about) {
  return [0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 600].find((each) => each >= about) ?? 3600;
}

function nearEnd({ clientX }, item) {
  const { left, right } = item.getBoundingClientRect();
  if (clientX - left < 6) return "start";
  return right - clientX < 6 ? "end" : null;
}
