// Loads a workflow, bypasses each node in turn as Ctrl+B does, and prints the prompt that would be sent:
//   { prompts: { id of the bypassed node: prompt }, errors }
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
