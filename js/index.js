// What our nodes do in the browser beyond what ComfyUI does by itself. Each widget has a file of its own; without this
// folder all nodes work and make the same.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { foldAdvanced } from "./advanced.js";
import { greyInactive } from "./inactive.js";
import { showPreview } from "./preview.js";
import { growStack } from "./stack.js";

app.registerExtension({
  name: "ltx2av",
  setup() {
    api.addEventListener("ltx2av.preview", ({ detail }) => {
      const node = nodeOf(detail.node);
      if (node) showPreview(node, detail);
    });
  },
  nodeCreated(node) {
    if (node.comfyClass === "LTX2AVLoraStack") growStack(node);
    if (!node.comfyClass?.startsWith("LTX2AV")) return;
    foldAdvanced(node);
    greyInactive(node);
  },
});

// The node with this id, or nothing if it is not in the workflow on screen. In a subgraph ids are "outer:inner".
function nodeOf(id) {
  let graph = app.rootGraph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node?.comfyClass?.startsWith("LTX2AV") ? node : null;
}
