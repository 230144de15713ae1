// One visit to ComfyUI in headless Chromium. Reads the task from standard input,
//   { address, chromium, workflow, nodes2, screenshot }   (nodes2: which renderer is on)
// loads the workflow, runs it, and prints what was seen:
//   { prompt, sliders, end, outputs, errors }
const { chromium } = require("playwright-core");
const { readFileSync } = require("node:fs");

const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

async function visit({ address, chromium: executablePath, workflow, nodes2, screenshot }) {
  const browser = await chromium.launch({ executablePath, headless: true, args: QUIET });
  try {
    const page = await browser.newPage({ viewport: { width: 1800, height: 1000 } });
    const errors = [];
    page.on("console", (line) => line.type() === "error" && errors.push(`${line.text()} (${line.location().url})`));
    page.on("pageerror", (error) => errors.push(error.stack));
    await page.goto(`http://${address}/`);
    // Ready is when the graph that ComfyUI opens with is there: loaded earlier, ours would be replaced by it.
    await page.waitForFunction(() => window.app?.graph?.nodes.length > 0, null, { timeout: 60000 });
    const prompt = await page.evaluate(async (graph) => {
      await app.loadGraphData(graph);
      return (await app.graphToPrompt()).output;
    }, workflow);
    const sliders = await page.evaluate(nodes2 ? slidersInPage : slidersOnCanvas);
    const answer = page.waitForResponse((response) => response.url().endsWith("/api/prompt"));
    const end = page.evaluate(runToTheEnd);
    if (!(await answer).ok()) throw new Error(`The prompt was refused: ${await (await answer).text()}`);
    const run = await end;
    await page.waitForTimeout(1500); // until the video of the last node is drawn
    await page.screenshot({ path: screenshot });
    return { prompt, sliders, ...run, errors };
  } finally {
    await browser.close();
  }
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

visit(JSON.parse(readFileSync(0, "utf8"))).then(
  (seen) => console.log(JSON.stringify(seen)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
