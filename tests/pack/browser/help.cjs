// The help page of a node as its user sees it: of { workflow, kinds } the tab Info of the properties panel is opened for a
// node of each kind. What was seen:
//   { pages: { kind: { heading, pictures: [width of each that is shown] } } }
const { visit } = require("./page.cjs");

visit(1000, async (page, { kinds }) => {
  const pages = {};
  for (const kind of kinds) {
    await page.evaluate((name) => app.canvas.selectItems([app.graph.nodes.find((each) => each.type === name)]), kind);
    await page.getByTestId("properties-panel").getByRole("tab", { name: "Info" }).click();
    const content = page.locator(".node-help-content");
    await content.locator("h1").waitFor({ timeout: 20000 });
    await page.waitForTimeout(500);
    pages[kind] = await content.evaluate((each) => ({
      heading: each.querySelector("h1").textContent,
      pictures: [...each.querySelectorAll("img")].map((img) => (img.offsetParent ? img.naturalWidth : 0)),
    }));
  }
  return { pages };
});
