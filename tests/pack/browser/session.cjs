// One workflow: { workflow, nodes2, screenshot } (nodes2: which renderer is on) is loaded and run. What was seen:
//   { prompt, sliders, end, outputs, zoom, boxes }   (zoom and boxes of nodes are those when all is in view)
const { visit, runToTheEnd } = require("./page.cjs");

visit(1200, async (page, { nodes2, screenshot }) => {
  const prompt = await page.evaluate(async () => (await app.graphToPrompt()).output);
  if (nodes2) await page.waitForTimeout(1000); // until the page has drawn its widgets
  const sliders = await page.evaluate(nodes2 ? slidersInPage : slidersOnCanvas);
  const run = await runToTheEnd(page);
  await page.waitForTimeout(1500); // until the video of the last node is drawn
  await page.evaluate(() => app.extensionManager.command.execute("Comfy.Canvas.FitView"));
  await page.waitForTimeout(1000); // it moves there slowly
  await page.screenshot({ path: screenshot });
  return { prompt, sliders, ...run, ...(await page.evaluate(layout, nodes2)) };
});

function layout(nodes2) {
  const zoom = app.canvas.ds.scale;
  const heightOf = (node) => {
    const element = nodes2 && document.querySelector(`[data-node-id="${node.id}"]`);
    return element ? element.getBoundingClientRect().height / zoom : node.size[1] + LiteGraph.NODE_TITLE_HEIGHT;
  };
  const boxes = app.graph.nodes.map((node) => {
    const [x, y] = node.pos;
    return { kind: node.type, box: [x, y - LiteGraph.NODE_TITLE_HEIGHT, node.size[0], heightOf(node)] };
  });
  return { zoom, boxes };
}

function slidersOnCanvas() {
  const widgets = app.graph.nodes.flatMap((node) => node.widgets ?? []).filter((widget) => widget.type === "slider");
  return widgets.map(({ options, value }) => [options.min, options.max, value]);
}

function slidersInPage() {
  const handles = [...document.querySelectorAll("[role=slider]")];
  return handles.map((handle) => ["min", "max", "now"].map((name) => Number(handle.getAttribute(`aria-value${name}`))));
}
