// Which widgets are grey, of { workflow, kind, changed } in the node of this kind as loaded, in a new one, and in the one
// that takes its place when two prompts are dropped on the canvas, the second with these values:
//   { loaded: [names], added: [names], replaced: [names] }
const { visit } = require("./page.cjs");

visit(1000, async (page, { kind, changed }) => {
  const look = async (way) => {
    await page.evaluate(place, [kind, way]);
    await page.waitForTimeout(500);
    return page.evaluate(() => window.looked.widgets.filter((each) => each.disabled).map(({ name }) => name));
  };
  const seen = { loaded: await look("loaded"), added: await look("added") };
  if (!changed) return seen;
  for (const values of [{}, changed]) {
    await page.evaluate(drop, [kind, values]);
    await page.waitForTimeout(500);
  }
  return { ...seen, replaced: await look("loaded") };
});

function place([kind, way]) {
  window.looked = app.graph.nodes.find((each) => each.type === kind);
  if (way === "added") app.graph.add((window.looked = LiteGraph.createNode(kind)));
}

// ComfyUI keeps what it knows of widgets by the id of their graph, and graphs of prompts have none.
async function drop([kind, values]) {
  const { output } = await app.graphToPrompt();
  const node = Object.values(output).find(({ class_type }) => class_type === kind);
  Object.assign(node.inputs, values);
  await app.loadApiJson(output, "dropped");
}
