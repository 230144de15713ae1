// Pictures in Nodes 2.0, for the help pages and README.md:
//   { workflow, kinds, runs, folder }   (runs: { name of a picture: { workflow, node: a kind, or null for all } })
// Each of `kinds` is taken as it is when it is added, and of each run what it asks for, once it has ended:
//   { ends: how the runs ended }
const { visit, runToTheEnd } = require("./page.cjs");

const LEFT = 420, TOP = 160; // where pictures are taken, clear of menus

visit(1400, async (page, { kinds, runs, folder }) => {
  for (const kind of kinds) {
    const id = await page.evaluate(placeAlone, [kind, LEFT, TOP]);
    await page.waitForTimeout(300);
    await page.locator(`[data-node-id="${id}"]`).screenshot({ path: `${folder}/${kind}.png` });
  }
  await page.setViewportSize({ width: 2400, height: 1400 });
  const ends = [];
  for (const [name, { workflow, node }] of Object.entries(runs)) {
    await page.evaluate((graph) => app.loadGraphData(graph), workflow);
    await page.evaluate(show, [node, LEFT, TOP]);
    ends.push((await runToTheEnd(page)).end);
    await page.waitForTimeout(2500); // until the video of the last node is drawn
    const box = await page.evaluate(show, [node, LEFT, TOP]); // nodes may have grown
    await page.waitForTimeout(500);
    const shape = node ? page.locator(`[data-node-id="${box.id}"]`) : page;
    await shape.screenshot({ path: `${folder}/${name}.png`, ...(node ? {} : { clip: box }) });
  }
  return { ends };
});

function placeAlone([kind, left, top]) {
  app.graph.nodes.forEach((each) => app.graph.remove(each)); // the next one gets a number of its own
  const node = LiteGraph.createNode(kind);
  app.graph.add(node);
  node.pos = [0, 0];
  node.setSize([360, 40]); // as high as what it shows
  Object.assign(app.canvas.ds, { scale: 1, offset: [left, top] });
  app.canvas.setDirty(true, true);
  return node.id;
}

// Bring a graph, or a node of it, to the place where pictures are taken; return where it is on the page.
function show([kind, left, top]) {
  const node = app.graph.nodes.find((each) => each.type === kind);
  const boxes = (node ? [node] : [...app.graph.groups, ...app.graph.nodes]).map((each) => each.boundingRect);
  const corner = [0, 1].map((axis) => Math.min(...boxes.map((box) => box[axis])));
  const end = [0, 1].map((axis) => Math.max(...boxes.map((box) => box[axis] + box[axis + 2])));
  Object.assign(app.canvas.ds, { scale: 1, offset: [left - corner[0], top - corner[1]] });
  app.canvas.setDirty(true, true);
  const { x, y } = app.canvas.canvas.getBoundingClientRect();
  const margin = 10;
  return {
    id: node?.id, x: x + left - margin, y: y + top - margin,
    width: end[0] - corner[0] + 2 * margin, height: end[1] - corner[1] + 2 * margin,
  };
}
