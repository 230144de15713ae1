// What our nodes do in the browser beyond what ComfyUI does by itself. Each widget has a file of its own; without this
// folder all nodes work and make the same.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { foldAdvanced } from "./advanced.js";
import { offerEditing } from "./enhance.js";
import { greyInactive } from "./inactive.js";
import { addMessages } from "./messages.js";
import { fillNames } from "./names.js";
import { addPreview } from "./preview.js";
import { followPrompts, forget, showAgain, tell } from "./results.js";
import { growStack } from "./stack.js";
import { suggestNodes } from "./suggestions.js";
import { drawTimeline } from "./timeline.js";
import { offerWords } from "./words.js";

const LIVE_PREVIEW = "ltx2av.LivePreview";

// What the server was told last, so that it is told once, and again after it was restarted.
let told = null;

app.registerExtension({
  name: "ltx2av.nodes",
  settings: [
    {
      id: LIVE_PREVIEW,
      category: ["LTX-2", "Sampling", "LivePreview"],
      name: "LTX-2: live preview",
      tooltip:
        "Plays the clip on its sampler while it is made, at most 2 % slower. ComfyUI's own live preview method does not matter for it.",
      type: "boolean",
      defaultValue: true,
      onChange: () => tellSetting(),
    },
  ],
  init: suggestNodes,
  setup() {
    tellSetting();
    api.addEventListener("status", () => tellSetting()); // with the first one, the browser has a name
    api.addEventListener("reconnected", () => tellSetting(null));
    followPrompts();
    api.addEventListener("ltx2av.preview", ({ detail }) => tell(detail.node, { clip: detail }));
    api.addEventListener("ltx2av.status", ({ detail }) => tell(detail.node, { status: detail.status }));
    // A text by ComfyUI's own event is gone with the end of the run, and in a closed subgraph it is not shown at all.
    api.addEventListener("ltx2av.said", ({ detail }) => tell(detail.node, { said: detail.said }));
    // What a node said stays with its result: a page that was opened after that run is told, too.
    api.addEventListener("executed", ({ detail }) => {
      const said = detail.output?.ltx2av_said?.at(-1);
      if (said) tell(detail.display_node ?? detail.node, { said });
    });
    api.addEventListener("execution_cached", ({ detail }) => forget(new Set(detail.nodes.map(String))));
    api.addEventListener("executing", ({ detail }) => detail && tell(detail.node ?? detail, { said: "" }));
  },
  afterConfigureGraph: showAgain,
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("LTX2AV")) return;
    if (node.comfyClass === "LTX2AVLoraStack") growStack(node);
    if (node.comfyClass === "LTX2AVTimeline") drawTimeline(node);
    if (node.comfyClass === "LTX2AVEnhancePrompt") offerEditing(node);
    offerWords(node);
    fillNames(node);
    foldAdvanced(node);
    greyInactive(node);
    addPreview(node);
    addMessages(node);
  },
});

function tellSetting(last = told) {
  const client = api.clientId ?? api.initialClientId;
  const on = app.extensionManager?.setting.get(LIVE_PREVIEW) ?? true;
  const now = JSON.stringify({ client, on });
  if (!client || now === last) return;
  told = now;
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: now };
  api.fetchApi("/ltx2av/live_preview", request).catch(() => (told = null));
}
