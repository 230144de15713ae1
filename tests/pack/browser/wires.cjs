// Wires of whole numbers are drawn in { workflow } to { inputs: [[kind, name], ...] }, and then size is chosen to be automatic
// again and the graph is loaded anew. What Empty AV Latent chooses after the one and the other, and what the page warns of:
//   { drawn: { size, length }, loaded: { size, length }, warned: [text] }
const { visit } = require("./page.cjs");

visit(1000, async (page, { inputs }) => {
  await page.waitForTimeout(500);
  await page.evaluate(draw, inputs);
  await page.waitForTimeout(1000);
  const warned = await page.getByText("No effect").locator("xpath=..").allTextContents();
  const drawn = await page.evaluate(choices);
  await page.evaluate(async () => {
    app.graph.nodes.find(({ type }) => type === "LTX2AVEmptyLatent").widgets.find(({ name }) => name === "size").value = "auto";
    await app.loadGraphData(app.graph.serialize());
  });
  await page.waitForTimeout(500);
  return { drawn, loaded: await page.evaluate(choices), warned };
});

function draw(inputs) {
  const number = LiteGraph.createNode("PrimitiveInt");
  app.graph.add(number);
  for (const [kind, name] of inputs) {
    const node = app.graph.nodes.find(({ type }) => type === kind);
    number.connect(0, node, node.inputs.findIndex((input) => input.name === name));
  }
}

function choices() {
  const { widgets } = app.graph.nodes.find(({ type }) => type === "LTX2AVEmptyLatent");
  return Object.fromEntries(["size", "length"].map((each) => [each, widgets.find(({ name }) => name === each).value]));
}
