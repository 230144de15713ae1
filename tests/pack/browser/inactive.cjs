// Which widgets are grey, of { workflow, kind } in the node of this kind as loaded, and in a new one:
//   { loaded: [names], added: [names] }
const { visit } = require("./page.cjs");

visit(1000, async (page, { kind }) => {
  const seen = {};
  for (const way of ["loaded", "added"]) {
    await page.evaluate(place, [kind, way]);
    await page.waitForTimeout(500);
    seen[way] = await page.evaluate(() => window.looked.widgets.filter((each) => each.disabled).map(({ name }) => name));
  }
  return seen;
});

function place([kind, way]) {
  window.looked = app.graph.nodes.find((each) => each.type === kind);
  if (way === "added") app.graph.add((window.looked = LiteGraph.createNode(kind)));
}
