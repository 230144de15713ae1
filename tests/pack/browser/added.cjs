// How high new nodes are, of { workflow, kinds }:   { heights: { kind: [height, what its inputs that are shown need] } }
const { visit } = require("./page.cjs");

visit(1000, async (page, { kinds }) => {
  await page.evaluate(place, kinds);
  await page.waitForTimeout(500);
  return { heights: await page.evaluate(look) };
});

function place(kinds) {
  window.added = kinds.map((kind) => app.graph.add(LiteGraph.createNode(kind)) && app.graph.nodes.at(-1));
}

function look() {
  return Object.fromEntries(window.added.map((node) => [node.type, [node.size[1], node.computeSize()[1]]]));
}
