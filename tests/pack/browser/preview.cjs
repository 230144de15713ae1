// A run with previews of
//   { workflow, sampler, steps, screenshot }   (sampler: the node's id)
// The preview on the sampler is looked at before, after so many steps and at the end, and with it the size of each of
// our nodes; then a node is moved, which is undone, and the sampler is collapsed, opened and removed.
const { visit } = require("./page.cjs");

visit(1250, async (page, { sampler, steps, screenshot }) => {
  await page.waitForTimeout(2000); // until the nodes have their sizes
  const seen = { before: await page.evaluate(look, sampler) };
  await page.evaluate(run);
  await page.waitForFunction((count) => events.length >= count || window.end, steps, { timeout: 60000 });
  await page.waitForTimeout(100);
  seen.during = await page.evaluate(look, sampler);
  await page.screenshot({ path: screenshot.replace(".png", "-during.png") });
  await page.waitForFunction(() => window.end, null, { timeout: 120000 });
  seen.after = await page.evaluate(look, sampler);
  await page.screenshot({ path: screenshot });
  seen.saved = await page.evaluate(() => JSON.stringify(app.graph.serialize()));
  await page.evaluate(moveAndUndo, sampler);
  await page.waitForTimeout(1000);
  seen.undone = await page.evaluate(look, sampler);
  const flip = (id) => app.graph.getNodeById(id).collapse();
  for (const state of ["collapsed", "opened"]) {
    await page.evaluate(flip, sampler);
    await page.waitForTimeout(300);
    seen[state] = await page.evaluate(look, sampler);
  }
  await page.evaluate((id) => app.graph.remove(app.graph.getNodeById(id)), sampler);
  await page.waitForTimeout(300);
  seen.removed = await page.evaluate(look, sampler);
  return { ...seen, ...(await page.evaluate(() => ({ events, end }))) };
});

// What a second shows of the preview: how many pictures and playheads, and whether ComfyUI's own still is there, too.
async function look(sampler) {
  const node = app.graph.getNodeById(sampler);
  const [pictures, playheads] = [new Set(), new Set()];
  const root = document.querySelector(".ltx2av-preview");
  const visible = (element) => Boolean(element?.offsetParent) && element.getBoundingClientRect().height > 0;
  for (let moment = 0; moment < 10 && visible(root?.querySelector("canvas")); moment++) {
    pictures.add(root.querySelector("canvas").toDataURL());
    playheads.add(root.querySelector("i").style.left);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const box = (selector) => {
    const { width, height } = root?.querySelector(selector)?.getBoundingClientRect() ?? {};
    return [width, height];
  };
  const still = node?.widgets?.some((widget) => widget.name === "$$canvas-image-preview")
    || [...document.querySelectorAll(`[data-testid="node-body-${sampler}"] > img`)].some(visible);
  const ours = app.graph.nodes.filter(({ comfyClass }) => comfyClass?.startsWith("LTX2AV"));
  const size = ({ id, size }) => {
    const drawn = document.querySelector(`[data-node-id="${id}"]`)?.getBoundingClientRect();
    const [width, height] = drawn ? [drawn.width, drawn.height].map((each) => each / app.canvas.ds.scale) : size;
    return [Math.round(width), Math.round(height)];
  };
  return {
    sizes: Object.fromEntries(ours.map((each) => [each.comfyClass, size(each)])),
    visible: visible(root), widgets: document.querySelectorAll(".ltx2av-preview").length, still,
    pictures: pictures.size, playheads: playheads.size, picture: box("canvas"), sound: box("img"),
    caption: root?.querySelector("small").textContent,
    said: [...document.querySelectorAll(".ltx2av-messages")].map(({ textContent }) => textContent),
  };
}

function run() {
  window.events = [];
  app.api.addEventListener("ltx2av.preview", ({ detail }) => events.push([detail.node, detail.step, detail.steps]));
  for (const end of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(end, () => (window.end = end));
  app.queuePrompt(0, 1);
}

// An undo makes all nodes anew.
async function moveAndUndo(sampler) {
  app.graph.getNodeById(sampler).pos[1] += 10;
  const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
  (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
  await tracker.undo();
}
