// App mode, which shows of a graph only what one chooses, of { workflow, strip, screenshot }: it is switched on, and run. What
// was seen, and what in the graph `strip`, whose main input is a widget of ours, which is tried there:
//   { labels: [what each input is called], end, labelsOfStrip, frames: of the strip, once it is two seconds long }
const { visit, runToTheEnd } = require("./page.cjs");

const toggle = (page) => page.evaluate(() => app.extensionManager.command.execute("Comfy.ToggleLinear"));

visit(1000, async (page, { strip, screenshot }) => {
  await page.waitForTimeout(1000);
  const seen = { labels: await labelsOf(page), end: (await runToTheEnd(page)).end };
  await page.screenshot({ path: screenshot });
  await toggle(page);
  await page.evaluate((graph) => app.loadGraphData(graph), strip);
  await page.waitForTimeout(1000);
  seen.labelsOfStrip = await labelsOf(page);
  const shown = page.getByTestId("linear-widgets").locator(".ltx2av-timeline");
  await shown.locator("input[type=number]").first().evaluate(write, 2); // a tour of this mode holds the keyboard
  seen.frames = await shown.locator("output").first().textContent();
  await toggle(page);
  return seen;
});

// Switch App mode on, and read what its inputs are called.
async function labelsOf(page) {
  await toggle(page);
  const labels = page.getByTestId("linear-widgets").getByTestId("builder-widget-label");
  await labels.last().waitFor({ timeout: 20000 });
  return labels.allTextContents();
}

function write(input, value) {
  input.value = value;
  input.dispatchEvent(new Event("change"));
}
