// The box that a double click on the canvas opens: of { workflow, words } each word is typed into it. What the first five
// entries say, their names first:
//   { found: { word: [text, ...] }, suggested: { type of a link of ours: nodes that its menu offers } }
const { visit } = require("./page.cjs");

visit(1000, async (page, { words }) => {
  await page.waitForTimeout(1500); // until the names of all nodes can be searched
  await page.mouse.dblclick(700, 800);
  await page.waitForFunction(() => document.activeElement?.tagName === "INPUT", null, { timeout: 20000 });
  const found = {};
  for (const word of words) {
    await page.evaluate(() => document.activeElement.select());
    await page.keyboard.type(word);
    await page.waitForTimeout(400); // it searches once nobody types any more
    found[word] = await page.evaluate(() =>
      [...document.querySelectorAll(".option-container")].slice(0, 5).map(({ textContent }) => textContent.trim()),
    );
  }
  const suggested = await page.evaluate(() =>
    Object.fromEntries(Object.entries(LiteGraph.slot_types_default_out).filter(([type]) => type.startsWith("LTX2AV"))),
  );
  return { found, suggested };
});
