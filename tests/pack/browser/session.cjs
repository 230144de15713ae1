// One visit to ComfyUI in headless Chromium. Reads the task from standard input,
//   { address, chromium, workflow, nodes2, screenshot }   (nodes2: which renderer is on)
// loads the workflow, runs it, and prints what was seen:
//   { prompt, sliders, end, outputs, zoom, boxes, errors }   (zoom and boxes of nodes are those when all is in view)
const { visit } = require("./page.cjs");

visit(1200, async (page, { nodes2, screenshot }) => {
  const prompt = await page.evaluate(async () => (await app.graphToPrompt()).output);
  const sliders = await page.evaluate(nodes2 ? slidersInPage : slidersOnCanvas);
  const answer = page.waitForResponse((response) => response.url().endsWith("/api/prompt"));
  const end = page.evaluate(runToTheEnd);
  if (!(await answer).ok()) throw new Error(`The prompt was refused: ${await (await answer).text()}`);
  const run = await end;
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

function runToTheEnd() {
  return new Promise((resolve) => {
    const outputs = [];
    app.api.addEventListener("executed", ({ detail }) => outputs.push(detail.node));
    for (const end of ["execution_success", "execution_error", "execution_interrupted"])
      app.api.addEventListener(end, () => resolve({ end, outputs }));
    app.queuePrompt(0, 1);
  });
}
