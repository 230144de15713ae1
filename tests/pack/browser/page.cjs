// A page of ComfyUI in headless Chromium, for the scripts beside this one. They read a task from standard input,
// with { address, chromium, workflow } in it, and print what they saw.
const { chromium } = require("playwright-core");
const { readFileSync } = require("node:fs");

const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

/** Run `look(page, task)` on a fresh page of this height, and print what it returns and what the console complained of. */
exports.visit = async (height, look) => {
  const task = JSON.parse(readFileSync(0, "utf8"));
  const browser = await chromium.launch({ executablePath: task.chromium, headless: true, args: QUIET });
  try {
    const page = await browser.newPage({ viewport: { width: 1800, height } });
    const errors = [];
    page.on("console", (line) => line.type() === "error" && errors.push(`${line.text()} (${line.location().url})`));
    page.on("pageerror", (error) => errors.push(error.stack));
    await page.goto(`http://${task.address}/`);
    // Ready is when the graph that ComfyUI opens with is there: loaded earlier, ours would be replaced by it.
    await page.waitForFunction(() => window.app?.graph?.nodes.length > 0, null, { timeout: 60000 });
    await page.evaluate((graph) => app.loadGraphData(graph), task.workflow);
    console.log(JSON.stringify({ ...(await look(page, task)), errors }));
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  } finally {
    await browser.close();
  }
};
