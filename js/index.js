// What our nodes do in the browser beyond what ComfyUI does by itself. Each widget has a file of its own; without this
// folder all nodes work and make the same.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { foldAdvanced } from "./advanced.js";
import { offerEditing } from "./enhance.js";
import { greyInactive } from "./inactive.js";
import { addMessages, say } from "./messages.js";
import { fillNames } from "./names.js";
import { addPreview, showPreview, showStatus } from "./preview.js";
import { growStack } from "./stack.js";
import { drawTimeline } from "./timeline.js";
import { offerWords } from "./words.js";

const LIVE_PREVIEW = "ltx2av.LivePreview";

// What the server was told last, so that it is told once, and again after it was restarted.
let told = null;

const onScreen = () => app.extensionManager?.workflow?.activeWorkflow;

// From which workflow each prompt was queued, and which prompt runs: nodes of another workflow on screen may have its ids.
const origins = new Map();
let running = null;

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
  setup() {
    tellSetting();
    api.addEventListener("status", () => tellSetting()); // with the first one, the browser has a name
    api.addEventListener("reconnected", () => tellSetting(null));
    followPrompts();
    api.addEventListener("ltx2av.preview", ({ detail }) => withNode(detail.node, (node) => showPreview(node, detail)));
    api.addEventListener("ltx2av.status", ({ detail }) => withNode(detail.node, (node) => showStatus(node, detail)));
    // ComfyUI hands a text only to nodes of the graph on screen, and not to those in a subgraph that is closed.
    api.addEventListener("progress_text", ({ detail }) => withNode(detail.nodeId, (node) => say(node, detail.text)));
    // What a node said stays with its result: a page that was opened after that run is told, too.
    api.addEventListener("executed", ({ detail }) => {
      const said = detail.output?.ltx2av_said?.at(-1);
      if (said) withNode(detail.display_node ?? detail.node, (node) => say(node, said));
    });
    api.addEventListener("execution_cached", ({ detail }) => forget(new Set(detail.nodes.map(String))));
    api.addEventListener("executing", ({ detail }) => detail && withNode(detail.node ?? detail, say));
  },
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

function followPrompts() {
  const { queuePrompt } = api;
  api.queuePrompt = async (...asked) => {
    const from = onScreen();
    const answer = await queuePrompt.apply(api, asked);
    origins.set(answer?.prompt_id, from);
    return answer;
  };
  api.addEventListener("execution_start", ({ detail }) => (running = detail.prompt_id));
  for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
    api.addEventListener(end, ({ detail }) => {
      if (detail.node_id) withNode(detail.node_id, (node) => showStatus(node, { status: "stopped" }));
      origins.delete(detail.prompt_id);
    });
  }
}

// Whether the workflow of the prompt that runs is on screen; a graph that is being loaded is none of the active workflow yet.
function isOnScreen() {
  const from = origins.get(running);
  return !from || (from === onScreen() && !from.changeTracker?.constructor.isLoadingGraph);
}

// Clear what our nodes said in the last run, except those whose result of it is used again.
function forget(cached) {
  const visit = (graph, prefix) => {
    for (const node of graph?.nodes ?? []) {
      const id = `${prefix}${node.id}`;
      if (node.subgraph) visit(node.subgraph, `${id}:`);
      else if (!cached.has(id) && node.comfyClass?.startsWith("LTX2AV")) say(node);
    }
  };
  if (isOnScreen()) visit(app.rootGraph ?? app.graph, "");
}

// Do something with the node of this id, if it is one of ours, and its workflow is on screen. In a subgraph ids are "outer:inner".
function withNode(id, act) {
  if (!isOnScreen()) return;
  let graph = app.rootGraph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  if (node?.comfyClass?.startsWith("LTX2AV")) act(node);
}
