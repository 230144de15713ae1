// What a node says: a line for each sentence, of the run that it is in or was in last. There is room for it from the start.
import { addElement } from "./element.js";
import { addStyle } from "./style.js";

const NAME = "ltx2av_messages";
const LINE = 15; // pixels, like all of these
const PADDING = 4;
const LINES = 2; // which have room, as much as in ComfyUI's own widget; more are scrolled, or seen on a taller node
const MORE_LINES = { LTX2AVPlan: 8, LTX2AVEnhancePrompt: 8, LTX2AVLoadLora: 4, LTX2AVLoadLoraAdvanced: 4, LTX2AVLoadICLora: 4 };
const ALWAYS = ["LTX2AVGemmaTextEncode", "LTX2AVThinkingTokens", "LTX2AVAudioDecode"]; // beside those that ask for their id to show something

addStyle(`
.ltx2av-messages { box-sizing: border-box; height: 100%; min-height: var(--room); contain: size; overflow: auto; padding: ${PADDING}px 8px;
  border-radius: 6px; background: #0003; font-size: 11px; line-height: ${LINE}px; color: var(--descrip-text, #999);
  user-select: text; }
.ltx2av-messages p { margin: 0; overflow-wrap: anywhere; }
`);

/** Make room for what `node` will say, if it is one that says something in every run. */
export function addMessages(node) {
  const says = node.constructor.nodeData?.input?.hidden?.unique_id || ALWAYS.includes(node.comfyClass);
  if (!says || node.widgets?.some((widget) => widget.name === NAME)) return;
  const room = (MORE_LINES[node.comfyClass] ?? LINES) * LINE + 2 * PADDING;
  const element = document.createElement("div");
  element.className = "ltx2av-messages";
  element.style.setProperty("--room", `${room}px`);
  let text = "";
  addElement(node, NAME, element, room, {
    getValue: () => text,
    setValue: (value) => {
      text = String(value).trim();
      element.replaceChildren(...text.split("\n").filter(Boolean).map(paragraph));
    },
  });
}

const placeOf = (node) => node.widgets?.find((each) => each.name === NAME);

/** Whether `node` has a place for what it says. */
export function saysOn(node) {
  return Boolean(placeOf(node));
}

/** What `node` said, a line for each sentence. */
export function saidBy(node) {
  return placeOf(node)?.value ?? "";
}

/** Show `text` on `node`. */
export function say(node, text) {
  const widget = placeOf(node);
  if (widget) widget.value = text;
}

function paragraph(line) {
  return Object.assign(document.createElement("p"), { textContent: line });
}
