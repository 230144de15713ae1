// What is offered where a link of ours is dropped on the canvas (Shift, or the menu in ComfyUI's settings): ComfyUI itself
// offers only nodes that cannot do without such a link, and most of ours can.
import { app } from "../../scripts/app.js";

// By type of link, what is connected most.
const FIRST = {
  LTX2AV_MODEL: ["LTX2AVSample", "LTX2AVGemmaTextEncode", "LTX2AVEmptyLatent", "LTX2AVDecode"],
  LTX2AV_GEMMA: ["LTX2AVGemmaTextEncode", "LTX2AVTimeline"],
  LTX2AV_CONDITIONS: ["LTX2AVSample", "LTX2AVTwoStage", "LTX2AVImage", "LTX2AVAudioToVideo"],
  LTX2AV_GUIDANCE: ["LTX2AVSample", "LTX2AVGuidance", "LTX2AVPlan"],
  LTX2AV_PLAN: ["LTX2AVSample", "LTX2AVGemmaTextEncode", "LTX2AVDecode"],
  LTX2AV_WINDOWS: ["LTX2AVSample", "LTX2AVSegment", "LTX2AVTimeline"],
};

/** Offer these first; ComfyUI appends its own, and shows as many as its settings say. */
export function suggestNodes() {
  const offered = app.extensions?.find(({ name }) => name === "Comfy.SlotDefaults")?.slot_types_default_out ?? {};
  for (const [type, kinds] of Object.entries(FIRST)) offered[type] = ["Reroute", ...kinds];
}
