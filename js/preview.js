// The running clip on its sampler: the frames in a loop above the mel spectrogram, and one playhead for both.
//
// It shows what nodes/preview.py sends with every step:
//   { step, steps, seconds,
//     video: { image, width, height, columns, starts } or null,   all frames on one sheet, and when each one begins
//     audio: { image } or null }                                  as long as the clip
// The widget appears with the first preview, keeps the last clip after the run, and is not saved.

const MARGIN = 10; // around the widget on the canvas; pixels, like all of these
const GAP = 4;
const SOUND = 56; // height of the spectrogram
const CAPTION = 14;
const TALLEST = 420; // of a frame that was not given more room by hand, so that portraits do not fill the screen
const FINEST = 512; // longer side of the canvas on which a frame is enlarged, smoothly

const STYLE = `
.ltx2av-preview { display: flex; flex-direction: column; gap: ${GAP}px; overflow: hidden; }
.ltx2av-preview > div { position: relative; flex: 1 1 auto; min-height: 0; display: flex; flex-direction: column;
  justify-content: end; gap: ${GAP}px; border-radius: 6px; overflow: hidden; background: #08080f;
  container-type: inline-size; }
.ltx2av-preview canvas { flex: 1 1 min(${TALLEST}px, 100cqw * var(--height)); min-height: 0; object-fit: contain; }
.ltx2av-preview img { flex: none; width: 100%; height: ${SOUND}px; }
.ltx2av-preview i { position: absolute; inset: 0 auto 0 0; width: 2px; margin-left: -1px;
  background: linear-gradient(#fff3 calc(100% - ${SOUND}px), #fffd 0); }
.ltx2av-preview small { flex: none; font-size: 11px; line-height: ${CAPTION}px; text-align: center;
  color: var(--descrip-text, #999); }
.ltx2av-preview [hidden] { display: none; }
/* The mouse goes to the canvas below: the node is dragged by its clip, the workflow is zoomed over it. */
.dom-widget:has(> .ltx2av-preview) { pointer-events: none !important; }
/* Nodes 2.0 would show ComfyUI's own still of the same moment, too. */
[data-testid^="node-body-"]:has(.ltx2av-preview) > :is(img, img + div) { display: none; }
`;

const players = new WeakMap(); // by node

/** Play `clip` on `node`. */
export function showPreview(node, clip) {
  if (!clip.video && !clip.audio) return;
  if (!players.has(node)) players.set(node, new Player(node));
  players.get(node).load(clip);
}

class Player {
  loads = 0;
  shown = 0;

  constructor(node) {
    this.node = node;
    [this.canvas, this.sound, this.playhead, this.caption] = ["canvas", "img", "i", "small"].map(create);
    const [screen, element] = ["div", "div"].map(create);
    screen.append(this.canvas, this.sound, this.playhead);
    element.append(screen, this.caption);
    element.className = "ltx2av-preview";
    this.element = element;
    this.addWidget();
    requestAnimationFrame(this.draw);
  }

  addWidget() {
    if (!document.getElementById("ltx2av-preview")) {
      document.head.append(Object.assign(create("style"), { id: "ltx2av-preview", textContent: STYLE }));
    }
    const options = { serialize: false, hideOnZoom: false, margin: MARGIN, getMinHeight: () => this.height() };
    const widget = this.node.addDOMWidget("ltx2av_preview", "ltx2av_preview", this.element, options);
    widget.serialize = false;
    const { onRemove } = widget;
    widget.onRemove = () => {
      this.removed = true;
      onRemove?.call(widget);
    };
    this.node.onDrawBackground = null; // on the canvas this would show ComfyUI's own still of the same moment, too
  }

  /** What the canvas renderer has to reserve; in Nodes 2.0 the style sees to it. */
  height() {
    const { width, height } = this.canvas;
    const picture = Math.min(TALLEST, ((this.node.size[0] - 2 * MARGIN) * height) / width);
    const streams = (this.canvas.hidden ? 0 : picture + GAP) + (this.sound.hidden ? 0 : SOUND + GAP);
    return streams + CAPTION + 2 * MARGIN;
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
    this.caption.textContent = `step ${clip.step} of ${clip.steps} · ${clip.seconds.toFixed(1)} s`;
  }

  /** Make room for clips of this shape. */
  fit({ video, audio }) {
    const shape = JSON.stringify([video?.width, video?.height, !audio]);
    if (shape === this.shape) return;
    this.shape = shape;
    this.canvas.hidden = !video;
    this.sound.hidden = !audio;
    if (video) {
      const scale = Math.max(1, FINEST / Math.max(video.width, video.height));
      this.canvas.width = Math.round(video.width * scale);
      this.canvas.height = Math.round(video.height * scale);
      this.canvas.style.setProperty("--height", video.height / video.width);
    }
    if (LiteGraph.vueNodesMode) return; // Nodes 2.0 sees to it
    const [width, height] = this.node.size;
    this.node.setSize([width, Math.max(height, this.node.computeSize()[1])]);
    this.node.setDirtyCanvas(true, true);
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
