// Which widgets are grey, of { workflow, kind, changed } in the node of this kind as loaded, in a new one, and in what takes
// its place when prompts are dropped on the canvas: one of ComfyUI's, and one with these values behind one without:
//   { loaded: [names], added: [names], foreign: [names], replaced: [names] }
const { visit } = require("./page.cjs");

visit(1000, async (page, { kind, changed }) => {
  const look = async (way, shown = kind) => {
    await page.evaluate(place, [shown, way]);
    await page.waitForTimeout(500);
    return page.evaluate(() => window.looked.widgets.filter((each) => each.disabled).map(({ name }) => name));
  };
  const seen = { loaded: await look("loaded"), added: await look("added") };
  if (!changed) return seen;
  await page.evaluate(async () => (window.prompt = (await app.graphToPrompt()).output));
  const dropped = async (shown, changes) => {
    for (const change of [{}, changes]) {
      await page.evaluate(drop, [kind, change]);
      await page.waitForTimeout(500);
    }
    return look("loaded", shown);
  };
  const foreign = await dropped("KSampler", { class_type: "KSampler", inputs: { steps: 7 } });
  return { ...seen, foreign, replaced: await dropped(kind, { inputs: changed }) };
});

function place([kind, way]) {
  window.looked = app.graph.nodes.find((each) => each.type === kind);
  if (way === "added") app.graph.add((window.looked = LiteGraph.createNode(kind)));
}

// ComfyUI keeps what it knows of widgets by the id of their graph, and graphs of prompts have none.
async function drop([kind, { class_type = kind, inputs = {} }]) {
  const [id, node] = Object.entries(window.prompt).find(([, each]) => each.class_type === kind);
  await app.loadApiJson({ ...window.prompt, [id]: { ...node, class_type, inputs: { ...node.inputs, ...inputs } } }, "dropped");
}
