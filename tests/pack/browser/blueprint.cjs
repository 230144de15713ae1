// A node made from a subgraph blueprint, as its user makes it:
//   { workflow, name, media, values, screenshot }
//   (media: { input of the node: [kind of a loader, its widget, its value] }; values: { widget of the node: value })
// It is found in the search of nodes, connected to media and Save Video, and run. What was seen:
//   { face: names of its widgets, labels: what they are called, seeds: what the seed was before and after, prompt, end, outputs }
const { visit, runToTheEnd } = require("./page.cjs");

visit(1000, async (page, { name, media, values, screenshot }) => {
  await find(page, name);
  const seen = await page.evaluate(complete, { media, values });
  const end = await runToTheEnd(page);
  await page.waitForTimeout(1500);
  await page.screenshot({ path: screenshot });
  const seeds = [seen.seed, await page.evaluate(seedOf)];
  return { ...seen, seeds, ...end };
});

// Put the node of this name onto the canvas; blueprints may be known to the search some seconds after the page is there.
async function find(page, name) {
  for (let attempt = 0; attempt < 5; attempt++) {
    await page.mouse.dblclick(900, 500);
    await page.waitForTimeout(500);
    await page.keyboard.type(name, { delay: 20 });
    await page.waitForTimeout(1500);
    await page.keyboard.press("Enter");
    await page.waitForTimeout(500);
    await page.mouse.click(900, 300); // where some front ends wait for the node to be put
    await page.waitForTimeout(1000);
    if (await page.evaluate(() => app.graph.nodes.length > 0)) return;
    await page.keyboard.press("Escape");
    await page.waitForTimeout(1000);
  }
  throw new Error(`The search does not find ${name}.`);
}

async function complete({ media, values }) {
  const [node] = app.graph.nodes;
  const face = node.widgets.map((each) => each.name);
  for (const [input, [kind, widget, value]] of Object.entries(media)) {
    const loader = LiteGraph.createNode(kind);
    loader.pos = [node.pos[0] - 400, node.pos[1]];
    app.graph.add(loader);
    loader.widgets.find((each) => each.name === widget).value = value;
    loader.connect(0, node, node.inputs.findIndex((each) => each.name === input));
  }
  const saver = LiteGraph.createNode("SaveVideo");
  saver.pos = [node.pos[0] + 500, node.pos[1]];
  app.graph.add(saver);
  node.connect(0, saver, 0);
  for (const [name, value] of Object.entries(values)) node.widgets.find((each) => each.name === name).value = value;
  const seed = node.widgets.find((each) => each.name === "seed").value;
  const labels = node.widgets.map((each) => each.label ?? each.name);
  return { face, labels, seed, prompt: (await app.graphToPrompt()).output };
}

function seedOf() {
  return app.graph.nodes[0].widgets.find((each) => each.name === "seed").value;
}
