// What nodes show of their last run: what they said, the clip and what is done just now. It goes to the workflow that the run
// was queued from, because nodes of another one on screen may have the same ids; and it is kept while the page is open,
// because undo and a change of tabs make all nodes anew.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { say, saysOn } from "./messages.js";
import { showPreview, showStatus } from "./preview.js";
import { warn } from "./warn.js";

const kept = new WeakMap(); // by workflow: what each of its nodes shows, by id
const origins = new Map(); // the workflow that each prompt was queued from
let running = null; // the prompt that runs

/** Follow what is queued and run. */
export function followPrompts() {
  const { queuePrompt } = api;
  api.queuePrompt = async (...asked) => {
    const from = onScreen();
    const answer = await queuePrompt.apply(api, asked).catch((refusal) => {
      tellRefusals(from, refusal?.response?.node_errors);
      throw refusal;
    });
    tellRefusals(from, answer?.node_errors); // of outputs that are not made, while others are
    origins.set(answer?.prompt_id, from);
    return answer;
  };
  api.addEventListener("execution_start", ({ detail }) => (running = detail.prompt_id));
  for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
    api.addEventListener(end, ({ detail }) => {
      if (detail.node_id) tell(detail.node_id, { status: "stopped" });
      origins.delete(detail.prompt_id);
    });
  }
}

// Before a run ComfyUI hides our sentences behind a button of its panel, under "couldn't validate a connected node".
function tellRefusals(workflow, refusals = {}) {
  for (const [id, { errors }] of Object.entries(refusals)) {
    const ours = errors.filter(({ type }) => type.startsWith("exception_during"));
    if (ours.length) tellOf(workflow, id, { said: ours.map(({ details }) => details).join("\n") });
  }
}

/** Let the node of this id show some of { said, clip, status }. In a subgraph ids are "outer:inner". */
export function tell(id, news) {
  tellOf(workflowOfRun(), id, news);
}

function tellOf(workflow, id, news) {
  const results = resultsOf(workflow);
  results.set(String(id), { ...results.get(String(id)), ...news });
  if (workflow !== onScreen() || isLoading()) return;
  const node = show(id, news);
  if (node && news.said && !saysOn(node)) warn(node.title, news.said); // an error: nodes that say more have a place for it
}

/** Let nodes say nothing any more, except those whose result of the last run is used again. */
export function forget(cached) {
  for (const id of resultsOf(workflowOfRun()).keys()) if (!cached.has(id)) tell(id, { said: "" });
}

/** Show all that is kept on the nodes of a graph, once it has been loaded and is that of the workflow on screen. */
export function showAgain() {
  if (isLoading()) requestAnimationFrame(showAgain);
  else resultsOf(onScreen()).forEach((news, id) => show(id, news));
}

const onScreen = () => app.extensionManager?.workflow?.activeWorkflow ?? app;
const workflowOfRun = () => origins.get(running) ?? onScreen();
const isLoading = () => onScreen().changeTracker?.constructor.isLoadingGraph;

function resultsOf(workflow) {
  if (!kept.has(workflow)) kept.set(workflow, new Map());
  return kept.get(workflow);
}

function show(id, { said, clip, status }) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  if (!node?.comfyClass?.startsWith("LTX2AV")) return null;
  if (said !== undefined) say(node, said);
  if (clip) showPreview(node, clip);
  if (status !== undefined) showStatus(node, status);
  return node;
}
