// The panel of parameters of nodes of { workflow, kinds }, which are selected one after the other: how wide all elements of ours
// on nodes are before and after, and what the rows of the panel are called:
//   { before: [pixels], after: [pixels], rows: [text] }
const { visit } = require("./page.cjs");

visit(1000, async (page, { kinds }) => {
  await page.waitForTimeout(1000);
  const before = await page.evaluate(widths);
  const rows = [];
  for (const kind of kinds) {
    await page.evaluate((kind) => app.canvas.selectItems([app.graph.nodes.find(({ type }) => type === kind)]), kind);
    await page.waitForTimeout(1000);
    const texts = await page.locator("span").allTextContents();
    rows.push(...texts.map((text) => text.trim()).filter(Boolean));
  }
  return { before, after: await page.evaluate(widths), rows };
});

function widths() {
  const ours = document.querySelectorAll(".ltx2av-preview, .ltx2av-timeline, .ltx2av-messages");
  return [...ours].map((element) => Math.round(element.getBoundingClientRect().width));
}
