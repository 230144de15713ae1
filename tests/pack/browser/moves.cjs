// What happens around a run, of { workflow, sampler, screenshot }   (sampler: the node's id). What was seen:
//   { apart, inside: { class: names of its grey inputs }, as loaded, and once our nodes are in a subgraph,
//     said: { class: what a node in the closed subgraph says after a run },
//     elsewhere, stopped: the caption of the preview in another tab while this one runs, and after it was cancelled }
const { visit, runToTheEnd } = require("./page.cjs");

visit(1100, async (page, { workflow, sampler, screenshot }) => {
  await page.waitForTimeout(500);
  const seen = { apart: await page.evaluate(greyOnes) };
  await begin(page, sampler, 200);
  await page.evaluate((graph) => app.loadGraphData(graph), workflow);
  await page.waitForTimeout(1500);
  seen.elsewhere = await captionOf(page);
  await page.evaluate(() => app.api.interrupt(null));
  await page.waitForTimeout(1000);

  await begin(page, sampler, 200);
  await page.evaluate(() => app.api.interrupt(null));
  await page.waitForTimeout(1000);
  seen.stopped = await captionOf(page);

  await page.evaluate(enclose, sampler);
  await page.waitForTimeout(500);
  seen.inside = await page.evaluate(greyOnes);
  await runToTheEnd(page);
  await page.waitForTimeout(500);
  seen.said = await page.evaluate(saidInside);
  await page.screenshot({ path: screenshot });
  return seen;
});

// Start a run of so many steps, and wait until the preview shows one of them.
async function begin(page, sampler, steps) {
  await page.evaluate(start, [sampler, steps]);
  await page.waitForFunction(() => /step \d+ of/.test(document.querySelector(".ltx2av-preview small")?.textContent));
}

function start([sampler, steps]) {
  const values = { settings: "these widgets", steps, seed: Math.floor(Math.random() * 1e9) };
  const { widgets } = app.graph.getNodeById(sampler);
  for (const [name, value] of Object.entries(values)) widgets.find((each) => each.name === name).value = value;
  app.queuePrompt(0, 1);
}

const captionOf = (page) => page.evaluate(() => document.querySelector(".ltx2av-preview small").textContent);

// Put all of our nodes into a subgraph, with the steps of the recipe again.
function enclose(sampler) {
  app.graph.getNodeById(sampler).widgets.find(({ name }) => name === "settings").value = "auto";
  const ours = app.graph.nodes.filter(({ comfyClass }) => comfyClass?.startsWith("LTX2AV"));
  app.graph.convertToSubgraph(new Set(ours));
}

// Names of grey inputs by class; of a seed's control ComfyUI decides.
function greyOnes() {
  const nodes = app.graph.nodes.flatMap((node) => node.subgraph?.nodes ?? [node]);
  const ours = nodes.filter(({ comfyClass }) => comfyClass?.startsWith("LTX2AV"));
  const grey = ({ widgets }) => (widgets ?? []).filter(({ disabled }) => disabled).map(({ name }) => name);
  const ofUs = (names) => names.filter((name) => name !== "control_after_generate");
  return Object.fromEntries(ours.map((node) => [node.comfyClass, ofUs(grey(node))]));
}

function saidInside() {
  const { nodes } = app.graph.nodes.find(({ subgraph }) => subgraph).subgraph;
  const saidBy = ({ widgets }) => widgets?.find(({ name }) => name === "ltx2av_messages")?.value ?? "";
  return Object.fromEntries(nodes.map((node) => [node.comfyClass, saidBy(node)]));
}
