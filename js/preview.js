// The running clip on its sampler: the frames in a loop above the mel spectrogram, and one playhead for both.
//
// It shows what nodes/preview.py sends with every step:
//   { step, steps, seconds,
//     video: { image, width, height, columns, starts } or null,   all frames on one sheet, and when each one begins
//     audio: { image } or null }                                  as long as the clip
// and, as often as it changes, what the node does: { status }.
// The widget has its room from the start, keeps the last clip after the run, and is not saved.
import { addElement } from "./element.js";
import { addStyle } from "./style.js";

const SAMPLERS = ["LTX2AVSample", "LTX2AVRefine", "LTX2AVTwoStage"];
const GAP = 4; // pixels, like all of these
const SOUND = 56; // height of the spectrogram
const CAPTION = 14;
const LINES = 2; // of the caption
const ROOM = 300; // height of all of it; a node that is made taller by hand gives it more
const FINEST = 512; // longer side of the canvas on which a frame is enlarged, smoothly
const PLACEHOLDER = "the preview appears here";

addStyle(`
.ltx2av-preview { box-sizing: border-box; display: flex; flex-direction: column; gap: ${GAP}px; overflow: hidden;
  height: 100%; min-height: ${ROOM}px; }
.ltx2av-preview > div { position: relative; flex: 1 1 0; min-height: 0; display: flex; flex-direction: column;
  justify-content: end; gap: ${GAP}px; border-radius: 6px; overflow: hidden; background: #08080f; }
.ltx2av-preview canvas { flex: 1 1 0; width: 100%; min-height: 0; object-fit: contain; }
.ltx2av-preview img { flex: none; width: 100%; height: ${SOUND}px; }
.ltx2av-preview i { position: absolute; inset: 0 auto 0 0; width: 2px; margin-left: -1px;
  background: linear-gradient(#fff3 calc(100% - ${SOUND}px), #fffd 0); }
.ltx2av-preview small { flex: none; height: ${LINES * CAPTION}px; overflow: hidden; font-size: 11px;
  line-height: ${CAPTION}px; text-align: center; color: var(--descrip-text, #999); }
.ltx2av-preview [hidden] { display: none; }
/* The mouse goes to the canvas below: the node is dragged by its clip, the workflow is zoomed over it. */
.dom-widget:has(> .ltx2av-preview) { pointer-events: none !important; }
/* Nodes 2.0 would show ComfyUI's own still of the same moment, too. */
[data-testid^="node-body-"]:has(.ltx2av-playing) > :is(img, img + div) { display: none; }
`);

const players = new WeakMap(); // by node

/** Make room for the preview on `node`, if it is one that samples. */
export function addPreview(node) {
  if (SAMPLERS.includes(node.comfyClass)) players.set(node, new Player(node));
}

/** Play `clip` on `node`. */
export function showPreview(node, clip) {
  if (clip.video || clip.audio) players.get(node)?.load(clip);
}

/** Say below the clip what `node` does. */
export function showStatus(node, status) {
  players.get(node)?.say(status);
}

class Player {
  loads = 0;
  shown = 0;

  constructor(node) {
    this.node = node;
    [this.canvas, this.sound, this.playhead, this.caption] = ["canvas", "img", "i", "small"].map(create);
    const [screen, element] = ["div", "div"].map(create);
    screen.append(this.canvas, this.sound, this.playhead);
    for (const each of [this.canvas, this.sound, this.playhead]) each.hidden = true;
    element.append(screen, this.caption);
    element.className = "ltx2av-preview";
    this.element = element;
    this.caption.textContent = PLACEHOLDER;
    this.addWidget();
    requestAnimationFrame(this.draw);
  }

  addWidget() {
    const widget = addElement(this.node, "ltx2av_preview", this.element, ROOM);
    const { onRemove } = widget;
    widget.onRemove = () => {
      this.removed = true;
      onRemove?.call(widget);
    };
  }

  /** Show what the node does, and how long the clip will be. */
  say(status) {
    this.status = status;
    const lasts = this.clip ? `a clip of ${this.clip.seconds.toFixed(1)} s` : "";
    this.caption.textContent = [status, lasts].filter(Boolean).join(" \u00b7 ");
  }

  /** Show `clip` as soon as its pictures are decoded, unless a later one is there by then. */
  async load(clip) {
    const number = ++this.loads;
    this.fit(clip);
    const [sheet, sound] = await Promise.all([clip.video, clip.audio].map(decoded));
    if (number < this.shown) return;
    this.shown = number;
    this.clip = clip;
    this.sheet = sheet;
    this.frame = null;
    if (sound) this.sound.src = sound.src;
    this.say(this.status);
  }

  /** Show the streams of this clip, in its shape. */
  fit({ video, audio }) {
    this.canvas.hidden = !video;
    this.sound.hidden = !audio;
    this.playhead.hidden = false;
    this.element.classList.add("ltx2av-playing");
    this.node.onDrawBackground = null; // on the canvas this would show ComfyUI's own still of the same moment, too
    const shape = JSON.stringify([video?.width, video?.height]);
    if (!video || shape === this.shape) return;
    this.shape = shape;
    const scale = Math.max(1, FINEST / Math.max(video.width, video.height));
    this.canvas.width = Math.round(video.width * scale);
    this.canvas.height = Math.round(video.height * scale);
    this.frame = null;
  }

  /** One moment of the loop; nothing is drawn while nobody can see it. */
  draw = (now) => {
    if (this.removed) return;
    requestAnimationFrame(this.draw);
    if (!this.clip || !this.element.offsetParent) return;
    const { video, seconds } = this.clip;
    const time = (now / 1000) % seconds;
    this.playhead.style.left = `${(100 * time) / seconds}%`;
    const frame = video?.starts.findLastIndex((start) => start <= time) ?? null;
    if (frame === this.frame) return;
    this.frame = frame;
    const { width, height, columns } = video;
    const context = this.canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    const corner = [(frame % columns) * width, Math.floor(frame / columns) * height];
    context.drawImage(this.sheet, ...corner, width, height, 0, 0, this.canvas.width, this.canvas.height);
  };
}

const create = (tag) => document.createElement(tag);

/** The picture of a stream, ready to be drawn; nothing where there is no stream. */
async function decoded(stream) {
  if (!stream) return null;
  const picture = Object.assign(new Image(), { src: stream.image });
  await picture.decode();
  return picture;
}
