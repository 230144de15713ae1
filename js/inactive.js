// Inputs that have no effect as a node is set are grey: those that the recipe of the model, or a wire, takes the place of.
import { isLinked } from "./advanced.js";
import { after, afterChanges } from "./changes.js";
import { addStyle } from "./style.js";
import { warn } from "./warn.js";

// Nodes 2.0 draws a slider that is switched off almost as if it were on.
addStyle(`
[data-node-id]:has(.ltx2av-preview) div:has(> [data-disabled] > [role="slider"]) { opacity: 0.4; }
`);

const SCALES = ["text_scale", "cross_modal_scale", "stg_scale", "stg_blocks", "rescale", "video_text_scale",
  "audio_text_scale", "video_cross_modal_scale", "audio_cross_modal_scale"];

// By class: which inputs have no effect, from the values of the widgets and which sockets have a wire. Each answer tells of
// all of them: in a prompt that is dropped, the front end greys a node as it did the one of the same id before.
const RULES = {
  LTX2AVSample({ settings }, linked) {
    const follows = settings === "recipe of the model" || (settings === "auto" && !linked("sigmas"));
    return {
      ...Object.fromEntries(SCALES.map((name) => [name, follows || linked("guidance")])),
      sampler: follows,
      steps: follows || linked("sigmas"),
    };
  },
  LTX2AVLoadGemma({ lora }, linked) {
    return { strength: lora === "none" && !linked("lora") };
  },
  LTX2AVEncode({ width, height }, linked) {
    return { megapixels: Boolean(width || height) || linked("width") || linked("height") };
  },
  LTX2AVReferenceVideo({ outpaint }, linked) {
    const margin = outpaint === "off";
    const grow = margin && !linked("fill");
    return { margin, grow, grow_frames: grow };
  },
  LTX2AVEmptyLatent({ size, length, seconds }, linked) {
    const model = linked("model");
    const chosen = size !== "auto" || !model ? size : linked("picture") ? "as the picture" : "as the model likes it";
    const byHand = chosen === "auto" || chosen === "by hand";
    const inSeconds = length === "in seconds" || (length === "auto" && seconds > 0);
    const inFrames = length === "in frames" || (length === "auto" && !seconds && !model && !linked("audio"));
    return {
      width: !byHand,
      height: !byHand,
      megapixels: byHand || chosen === "as the model likes it",
      frames: !inFrames,
      seconds: !inSeconds && length !== "auto",
    };
  },
};

// By class: where a wire is drawn to an input without effect, the choice that lets it count.
const CHOICES = {
  LTX2AVEmptyLatent: {
    width: ["size", "by hand"],
    height: ["size", "by hand"],
    frames: ["length", "in frames"],
    seconds: ["length", "in seconds"],
  },
};

/** Keep the inputs of `node` that have no effect grey; a wire that is drawn to one counts, or the page says that it does not. */
export function greyInactive(node) {
  const rule = RULES[node.comfyClass];
  if (!rule) return;
  const greyed = new Set();
  const refresh = () => {
    const values = Object.fromEntries(node.widgets.map(({ name, value }) => [name, value]));
    const inactive = rule(values, (name) => isLinked(node, name));
    greyed.clear();
    for (const widget of node.widgets) {
      const grey = inactive[widget.numberName ?? widget.name]; // with a number, the words in its place
      if (grey === undefined) continue; // of others, such as a seed's control, the front end decides
      widget.disabled = grey;
      if (grey) greyed.add(widget.name);
    }
    node.setDirtyCanvas(true);
  };
  after(node, "onConnectionsChange", (side, slot, isConnected, link) => {
    const name = side === LiteGraph.INPUT && isConnected && !link?.originIsIoNode && node.inputs[slot]?.widget?.name;
    if (greyed.has(name)) letCount(node, name); // nothing is grey yet while a graph is loaded or pasted
  });
  after(node, "onRemoved", () => {
    for (const widget of node.widgets) {
      if (greyed.has(widget.name)) widget.disabled = false; // else a node of another pack may be grey in its place
    }
  });
  afterChanges(node, refresh);
  queueMicrotask(refresh);
}

function letCount(node, name) {
  const [chooser, word] = CHOICES[node.comfyClass]?.[name] ?? [];
  const choice = node.widgets.find((each) => each.name === chooser);
  if (choice && !isLinked(node, chooser)) {
    choice.value = word;
    node.onWidgetChanged?.(chooser, word, undefined, choice);
  } else {
    warn("No effect", `${name} of ${node.title} has no effect as the node is set: see what is chosen in it, and its help page.`);
  }
}
