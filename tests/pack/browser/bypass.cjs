// What would be sent: of { workflow, bypass: ids } each node in turn is bypassed, as Ctrl+B does:
//   { prompts: { id of the bypassed node: prompt } }
const { visit } = require("./page.cjs");

visit(1000, async (page, { bypass }) => ({
  prompts: await page.evaluate(async (ids) => {
    const prompts = {};
    for (const id of ids) {
      const node = app.graph.getNodeById(id);
      node.mode = 4;
      prompts[id] = (await app.graphToPrompt()).output;
      node.mode = 0;
    }
    return prompts;
  }, bypass),
}));
