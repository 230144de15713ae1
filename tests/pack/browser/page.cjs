// A page of ComfyUI in headless Chromium, for the scripts beside this one: node SCRIPT ADDRESS CHROMIUM. Each reads tasks
// from standard input, a line of JSON each, and prints for each a line that says what it saw. What several of them do in
// the page is here, too.
const { chromium } = require("playwright-core");
const { createInterface } = require("node:readline");

const [address, executablePath] = process.argv.slice(2);
const PATIENCE = 300; // seconds for a task
const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

/** Load the `workflow` of each task into a page of this height, and print what `look(page, task)` returns, and `errors`. */
exports.visit = (height, look) =>
  exports.open(height, async (page, task) => {
    // Ready is when the graph that ComfyUI opens with is there: loaded earlier, ours would be replaced by it.
    await page.waitForFunction(() => window.app?.graph?.nodes.length > 0 || window.visited, null, { timeout: 60000 });
    await page.evaluate((graph) => (window.visited = app.loadGraphData(graph)), task.workflow);
    const seen = await look(page, task);
    await page.evaluate(() => app.graph.clear()); // what plays on its nodes takes time from the next page
    return seen;
  });

/** Print for each task what `look(page, task)` returns on one page of this height, and what the console complained of. */
exports.open = async (height, look) => {
  const browser = await chromium.launch({ executablePath, headless: true, args: QUIET });
  const page = await browser.newPage({ viewport: { width: 1800, height } });
  let errors = [];
  page.on("console", (line) => complains(line) && errors.push(`${line.text()} (${line.location().url})`));
  page.on("pageerror", (error) => errors.push(error.stack));
  await page.goto(`http://${address}/`);
  for await (const line of createInterface({ input: process.stdin })) {
    const seen = await inTime(look(page, JSON.parse(line))).catch(({ stack }) => ({ failed: stack }));
    console.log(JSON.stringify({ ...seen, errors }));
    errors = [];
    if (seen.failed) await page.goto(`http://${address}/`); // the next task does not suffer from this one
  }
  await browser.close();
};

/** Run the graph; tell how it `end`ed and which nodes had `outputs`. A prompt that is refused is an error. */
exports.runToTheEnd = async (page) => {
  const answered = page.waitForResponse((response) => response.url().endsWith("/api/prompt"));
  const run = page.evaluate(runInPage);
  run.catch(() => {}); // a refused one never ends
  const answer = await answered;
  if (!answer.ok()) throw new Error(`The prompt was refused: ${await answer.text()}`);
  return run;
};

function runInPage() {
  return new Promise((resolve) => {
    const listening = new AbortController();
    const outputs = [];
    const listen = (event, hear) => app.api.addEventListener(event, hear, { signal: listening.signal });
    const finish = (end) => {
      listening.abort();
      resolve({ end, outputs });
    };
    listen("executed", ({ detail }) => outputs.push(detail.node));
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) listen(end, () => finish(end));
    app.queuePrompt(0, 1);
  });
}

// Errors of anybody, and warnings of ours.
function complains(line) {
  const { url } = line.location();
  return line.type() === "error" || (line.type() === "warning" && /ltx2/i.test(line.text() + url));
}

function inTime(seeing) {
  const late = (_, reject) => setTimeout(() => reject(new Error(`No answer in ${PATIENCE} s.`)), PATIENCE * 1000).unref();
  return Promise.race([seeing, new Promise(late)]);
}
