// What nodes say in three runs: a good one, one that fails, a good one again; and in a fourth one, on a page that was
// opened after them and has its results from them, of
//   { workflow, sampler, screenshot }   (sampler: the node's id, whose negative prompt is missing)
// What was seen:
//   { good, bad, again, later, kind }   (each run: the lines of each node, and whether each has a height of its own)
//   { refused: [the lines of each node, [warnings]] }   of a run that never begins, for its seed and its checkpoint
const { visit, runToTheEnd } = require("./page.cjs");

visit(1250, async (page, { workflow, sampler, screenshot }) => {
  const seen = {};
  await page.evaluate(() => app.api.addEventListener("execution_error", ({ detail }) => (window.kind = detail.exception_type)));
  const runAndLook = async (name) => {
    await runToTheEnd(page);
    await page.waitForTimeout(500);
    seen[name] = await page.evaluate(look);
    await page.screenshot({ path: screenshot.replace(".png", `-${name}.png`) });
  };
  await runAndLook("good");
  const link = await page.evaluate((id) => {
    const node = app.graph.getNodeById(id);
    const slot = node.inputs.findIndex(({ name }) => name === "negative");
    const { origin_id, origin_slot } = app.graph.getLink(node.inputs[slot].link);
    node.disconnectInput(slot);
    return { slot, origin_id, origin_slot };
  }, sampler);
  await runAndLook("bad");
  await page.evaluate(([id, { slot, origin_id, origin_slot }]) => {
    app.graph.getNodeById(origin_id).connect(origin_slot, app.graph.getNodeById(id), slot);
  }, [sampler, link]);
  await runAndLook("again");
  const kind = await page.evaluate(() => window.kind);
  await page.evaluate(spoil, sampler);
  await page.waitForTimeout(500);
  const refused = [await page.evaluate(look), await page.getByText("is not in its list").allTextContents()];
  await page.reload();
  await page.waitForFunction(() => window.app?.graph?.nodes.length > 0);
  await page.evaluate((graph) => app.loadGraphData(graph), workflow);
  await runAndLook("later");
  return { ...seen, kind, refused };
});

function spoil(sampler) {
  const set = (node, name, value) => (node.widgets.find((each) => each.name === name).value = value);
  set(app.graph.getNodeById(sampler), "seed", -5);
  set(app.graph.nodes.find(({ type }) => type === "LTX2AVLoadModel"), "checkpoint", "absent.safetensors");
  return app.queuePrompt(0, 1);
}

function look() {
  const texts = {};
  for (const node of app.graph.nodes) {
    const element = node.widgets?.find(({ name }) => name === "ltx2av_messages")?.element;
    if (!element) continue;
    const lines = [...element.querySelectorAll("p")];
    const tops = new Set(lines.map((line) => line.getBoundingClientRect().top));
    texts[node.id] = { lines: lines.map(({ textContent }) => textContent), apart: tops.size === lines.length };
  }
  return texts;
}
