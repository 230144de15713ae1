// App mode, which shows of a graph only what one chooses, of { workflow, screenshot }: it is switched on, and run. What was
// seen:
//   { labels: [what each input is called], end }
const { visit, runToTheEnd } = require("./page.cjs");

const toggle = (page) => page.evaluate(() => app.extensionManager.command.execute("Comfy.ToggleLinear"));

visit(1000, async (page, { screenshot }) => {
  await page.waitForTimeout(1000);
  await toggle(page);
  const labels = page.getByTestId("linear-widgets").getByTestId("builder-widget-label");
  await labels.last().waitFor({ timeout: 20000 });
  const seen = { labels: await labels.allTextContents(), end: (await runToTheEnd(page)).end };
  await page.screenshot({ path: screenshot });
  await toggle(page);
  return seen;
});
